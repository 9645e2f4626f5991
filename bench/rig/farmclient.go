package rig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// FarmClient asks a farm that runs in a process of its own, so that its processor time is its own too.
type FarmClient struct{ Addr, Control string }

// RunFarm is the main of that process: it prints both addresses on one line and serves until stop.
func RunFarm(out io.Writer, stop <-chan struct{}) error {
	f, err := NewFarm()
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintln(out, f.Addr(), f.Control())
	<-stop
	return nil
}

// ParseFarm reads the line that RunFarm prints.
func ParseFarm(line string) (*FarmClient, error) {
	a, c, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok {
		return nil, fmt.Errorf("the farm said %q", line)
	}
	return &FarmClient{a, c}, nil
}

// Reset forgets all that was seen.
func (c *FarmClient) Reset() error { return c.ask("/reset", nil) }

// Count is how many requests were answered with 2xx; -1 if the farm does not answer.
func (c *FarmClient) Count() int64 {
	var n json.Number
	if c.ask("/count", &n) != nil {
		return -1
	}
	v, _ := strconv.ParseInt(n.String(), 10, 64)
	return v
}

// Seen is how many requests the receivers whose name starts with prefix have got since the last Reset, without a ledger file; -1 if the farm does not answer.
func (c *FarmClient) Seen(prefix string) int {
	n := -1
	c.ask("/seen?prefix="+url.QueryEscape(prefix), &n)
	return n
}

// Stats and Ledger: see Farm.
func (c *FarmClient) Stats(prefix string) (s Stats, err error) {
	return s, c.ask("/stats?prefix="+url.QueryEscape(prefix), &s)
}

func (c *FarmClient) Ledger(prefix string) (l map[string][]Entry, err error) {
	return l, c.ask("/ledger?prefix="+url.QueryEscape(prefix), &l)
}

// Open makes the farm write a ledger from now on, in a new file; an empty name ends the ledger. Requests that are under way may still end in the one before.
// sync=false leaves out fdatasync, where the disk's own pauses would be measured.
func (c *FarmClient) Open(file string, sync bool) error {
	return c.tell("/open", map[string]any{"File": file, "Sync": sync})
}

// Tell the farm the secrets of a receiver, as whsec_ texts, newest first: who verifies must know them before the first request.
func (c *FarmClient) Tell(name string, secrets ...string) error {
	return c.tell("/secret", map[string]any{"Name": name, "Secrets": secrets})
}

// Distinct is how many pairs of receiver and event were answered with 2xx since the last Reset, each counted once; -1 if the farm does not answer. Only
// with a ledger.
func (c *FarmClient) Distinct(prefix string) int64 {
	n := int64(-1)
	if c.ask("/distinct?prefix="+url.QueryEscape(prefix), &n) != nil {
		return -1
	}
	return n
}

func (c *FarmClient) tell(path string, what any) error {
	b, err := json.Marshal(what)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 60 * time.Second}
	res, err := client.Post("http://"+c.Control+path, "application/json", bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if msg, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		return fmt.Errorf("the farm refused %s: %s", path, msg)
	}
	return nil
}

func (c *FarmClient) ask(path string, into any) error {
	client := http.Client{Timeout: 60 * time.Second}
	res, err := client.Get("http://" + c.Control + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if into == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	return json.NewDecoder(res.Body).Decode(into)
}
