package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

// TestSimulation runs a handful of seeds; as a child of the program, the one that SIMULATION_SEED names, and says its result as a line of JSON.
func TestSimulation(t *testing.T) {
	if text := os.Getenv("SIMULATION_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(simulated(t, seed))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("RESULT %s\n", line)
		return
	}
	for seed := uint64(302); seed < 305; seed++ { // crashes and second copies among them, and cheap
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			for _, v := range simulated(t, seed).Violations {
				t.Errorf("seed %d: %s (go run ./bench/simulation -from %d -seeds 1)", seed, v, seed)
			}
		})
	}
}

func simulated(t *testing.T, seed uint64) (res *result) {
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(*testing.T) { res = simulate(makePlan(seed)) })
	return res
}

// A seed runs the same way each time, to the last byte of its history: three of them, each three times, on all processors and beside each other.
func TestASeedRunsTheSameWayEachTime(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	ways := map[uint64]string{}
	var children sync.WaitGroup
	for i := range 9 {
		seed := uint64(302 + i%3)
		children.Go(func() {
			r := child(&options{limit: 2 * time.Minute, history: true}, binary, seed, i)
			mu.Lock()
			defer mu.Unlock()
			for _, v := range r.Violations {
				t.Errorf("seed %d: %s", seed, v)
			}
			if !r.exact {
				return
			}
			if before := ways[seed]; before != "" && before != r.way {
				t.Errorf("seed %d ran another way than before", seed)
			}
			ways[seed] = r.way
		})
	}
	children.Wait()
	if len(ways) < 3 {
		t.Skip("a child may not be traced here, or this is not Linux on amd64")
	}
}
