package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

// TestSimulation runs a handful of seeds; as a child of the program, those that SIMULATION_FROM and SIMULATION_SEEDS name, with a line of JSON for each.
func TestSimulation(t *testing.T) {
	from, n, child := uint64(302), 3, false // crashes and second copies among them, and cheap
	if text := os.Getenv("SIMULATION_FROM"); text != "" {
		from, _ = strconv.ParseUint(text, 10, 64)
		child = true
	}
	if text := os.Getenv("SIMULATION_SEEDS"); text != "" {
		n, _ = strconv.Atoi(text)
	}
	for i := range n {
		seed := from + uint64(i)
		if child {
			fmt.Printf("SEED %d\n", seed)
		}
		began := time.Now()
		var res *result
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			synctest.Test(t, func(*testing.T) { res = simulate(makePlan(seed)) })
		})
		if child {
			res.Wall = time.Since(began)
			line, _ := json.Marshal(res)
			fmt.Printf("RESULT %s\n", line)
			continue
		}
		for _, v := range res.Violations {
			t.Errorf("seed %d: %s (go run ./bench/simulation -from %d -seeds 1)", seed, v, seed)
		}
	}
}
