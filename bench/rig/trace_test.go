package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// writer is a program of several threads that writes numbers to a socket, one at a time, and prints each number when it was written.
const writer = `package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
)

func main() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		panic(err)
	}
	in, err := ln.Accept()
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex
	n := 0
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 25 {
				mu.Lock()
				n++
				b := make([]byte, 16)
				binary.BigEndian.PutUint16(b[4:], 8) // looks like an OffsetCommit
				b[15] = byte(n)
				c.Write(b)
				fmt.Fprintln(os.Stdout, "wrote", n)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	in.Close()
}
`

// The place is counted over all threads, and the write before which a process dies is not made.
func TestAProcessDiesAtTheNthWriteOfAllItsThreads(t *testing.T) {
	dir := t.TempDir()
	source, program := filepath.Join(dir, "writer.go"), filepath.Join(dir, "writer")
	if err := os.WriteFile(source, []byte(writer), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, c := range []struct {
		name   string
		at     KillAt
		killed bool
		writes int
	}{
		{"whole", KillAt{}, false, 200},
		{"first", KillAt{N: 1}, true, 1},
		{"before", KillAt{N: 137}, true, 137},
		{"after", KillAt{N: 137, After: true}, true, 137},
		{"beyond", KillAt{N: 201}, false, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := StartTraced(dir, c.name, nil, c.at, program)
			if err != nil {
				t.Fatal(err)
			}
			<-p.Done()
			if p.Killed != c.killed || p.Writes != c.writes || c.killed && p.What != "Kafka OffsetCommit" || c.killed != (p.err != nil) {
				t.Errorf("killed %t at %d (%s), ended with %v", p.Killed, p.Writes, p.What, p.err)
			}
			log, err := os.ReadFile(p.Log)
			if err != nil {
				t.Fatal(err)
			}
			// The program says so after each write: of the one that killed it, it never could.
			want := c.writes
			if c.killed {
				want--
			}
			if n := strings.Count(string(log), "wrote"); n != want {
				t.Errorf("it says that it wrote %d times, want %d", n, want)
			}
		})
	}
}
