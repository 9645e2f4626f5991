package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// ask sends one inline command and returns the first line of the answer.
func ask(r *Redis, command string) (string, error) {
	connect := r.Dial
	if connect == nil {
		connect = new(net.Dialer).DialContext
	}
	c, err := connect(context.Background(), "tcp", r.Addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	var parts []byte
	n := 0
	for word := range strings.FieldsSeq(command) {
		parts = fmt.Appendf(parts, "$%d\r\n%s\r\n", len(word), word)
		n++
	}
	if _, err := c.Write(append(fmt.Appendf(nil, "*%d\r\n", n), parts...)); err != nil {
		return "", err
	}
	line, _, err := bufio.NewReader(c).ReadLine()
	return string(line), err
}

func TestRedisStopsAndStartsWithItsData(t *testing.T) {
	for _, virtual := range []bool{false, true} {
		t.Run(fmt.Sprintf("virtual=%v", virtual), func(t *testing.T) {
			r, err := StartRedis(RedisConfig{Virtual: virtual})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if answer, err := ask(r, "SET a 1"); answer != "+OK" {
				t.Fatal(answer, err)
			}
			addr := r.Addr
			r.Stop()
			if _, err := ask(r, "PING"); err == nil {
				t.Error("a stopped Redis answered")
			}
			if err := r.Start(); err != nil || r.Addr != addr {
				t.Fatal(err, r.Addr)
			}
			if answer, err := ask(r, "EXISTS a"); answer != ":1" {
				t.Errorf("after a restart: %s %v", answer, err)
			}
			r.Flush()
			if len(r.Keys()) != 0 {
				t.Errorf("after a flush: %v", r.Keys())
			}
		})
	}
}

func TestRedisForgetsByVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := StartRedis(RedisConfig{Virtual: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ask(r, "SET a 1")
		ask(r, "EXPIRE a 3600")
		<-time.After(59 * time.Minute) // virtual
		if answer, err := ask(r, "EXISTS a"); answer != ":1" {
			t.Errorf("a minute before its time: %s %v", answer, err)
		}
		<-time.After(2 * time.Minute)
		if answer, err := ask(r, "EXISTS a"); answer != ":0" {
			t.Errorf("a minute after its time: %s %v", answer, err)
		}
	})
}

func TestRedisForgetsByTheClock(t *testing.T) {
	r, err := StartRedis(RedisConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ask(r, "SET stays 1")
	ask(r, "SET goes 1")
	ask(r, "PEXPIRE goes 500")
	if len(r.Keys()) != 2 {
		t.Fatalf("before its time: %v", r.Keys())
	}
	tick, end := time.NewTicker(10*time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for len(r.Keys()) > 1 {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("what had half a second is there after ten")
		}
	}
	if r.Keys()[0] != "stays" {
		t.Errorf("what is left: %v", r.Keys())
	}
}

// Marks are tens of thousands of keys. A Redis that goes through them at each command is one that does not answer in time.
func TestRedisIsNotSlowerWithManyKeys(t *testing.T) {
	r, err := StartRedis(RedisConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fastest := func() time.Duration {
		best := time.Hour
		for range 5 {
			c, err := net.Dial("tcp", r.Addr)
			if err != nil {
				t.Fatal(err)
			}
			begun, in := time.Now(), bufio.NewReader(c)
			const commands = 200
			if _, err := c.Write([]byte(strings.Repeat("*2\r\n$6\r\nEXISTS\r\n$1\r\na\r\n", commands))); err != nil {
				t.Fatal(err)
			}
			for range commands {
				if line, err := in.ReadString('\n'); err != nil || line != ":0\r\n" {
					t.Fatal(line, err)
				}
			}
			best = min(best, time.Since(begun))
			c.Close()
		}
		return best
	}
	few := fastest()
	for i := range 50_000 {
		r.mini.Set(fmt.Sprint("key", i), "1")
	}
	if many := fastest(); many > 10*few {
		t.Errorf("200 commands among 50,000 keys take %v, among none %v", many, few)
	}
}
