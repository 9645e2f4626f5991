package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// unheard lists when deliverers said that Redis did not answer in time, since a moment. The machine that runs the rig is busy, and a process that is not given the
// processor for some tenths of a second goes on without marks: that is nothing that somebody did, and it allows what a Redis that loses its marks allows. It is counted
// apart.
func unheard(dir string, since time.Time) (faults []Fault) {
	logs, _ := filepath.Glob(filepath.Join(dir, "deliverer*.log"))
	for _, name := range logs {
		faults = append(faults, unheardIn(name, since)...)
	}
	return faults
}

func unheardIn(name string, since time.Time) (faults []Fault) {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	who := strings.TrimSuffix(filepath.Base(name), ".log")
	open := map[string]int{} // by link: the place in faults of what has no end yet
	for s := bufio.NewScanner(f); s.Scan(); {
		var line struct {
			Time      time.Time
			Msg, Link string
		}
		if !strings.Contains(s.Text(), `"msg":"redis `) || json.Unmarshal(s.Bytes(), &line) != nil || line.Time.Before(since) {
			continue
		}
		i, stands := open[line.Link]
		switch {
		case strings.HasPrefix(line.Msg, "redis does not answer") && !stands:
			open[line.Link] = len(faults)
			faults = append(faults, Fault{RedisUnheard, who, line.Time, line.Time.Add(2 * time.Second)})
		case strings.HasPrefix(line.Msg, "redis answers again") && stands:
			faults[i].End = line.Time
			delete(open, line.Link)
		}
	}
	return faults
}
