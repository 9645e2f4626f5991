package main

import "testing"

// A figure of a run in which something was missing or doubled is no figure.
func TestWhatIsMissingOrDoubledIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		r     report
		wrong bool
	}{
		"nothing":                          {report{Sustained: []Sustained{{}}, Latency: []Latency{{}}, Hanging: []Hanging{{Ratio: 9}}}, false},
		"missing at the sustained rate":    {report{Sustained: []Sustained{{}, {Missing: 1}}}, true},
		"doubled at the sustained rate":    {report{Sustained: []Sustained{{Duplicates: 1}}}, true},
		"missing at a fixed rate":          {report{Latency: []Latency{{Missing: 1}}}, true},
		"doubled at a fixed rate":          {report{Latency: []Latency{{Duplicates: 1}}}, true},
		"more than was owed":               {report{Latency: []Latency{{Missing: -1}}}, true},
		"missing beside those that hang":   {report{Hanging: []Hanging{{Beside: Latency{Missing: 1}}}}, true},
		"doubled where nobody hangs":       {report{Hanging: []Hanging{{AllHealthy: Latency{Duplicates: 1}}}}, true},
		"missing of a replay":              {report{Replayed: []Replayed{{Killed: true, Missing: 1}}}, true},
		"doubled by a replay":              {report{Replayed: []Replayed{{Duplicates: 1}}}, true},
		"doubled at a kill":                {report{Replayed: []Replayed{{Killed: true, Duplicates: 1}}}, false},
		"missing in order":                 {report{Ordered: &Ordered{Healthy: Latency{Missing: 1}}}, true},
		"missing beside failing entities":  {report{Ordered: &Ordered{Beside: Latency{Missing: 1}}}, true},
		"missing to verify":                {report{Verified: &Verified{Missing: 1}}, true},
		"not all delivered, says verify":   {report{Verified: &Verified{Owed: 2, Delivered: 1}}, true},
		"nothing missing to verify":        {report{Verified: &Verified{Owed: 2, Delivered: 2}}, false},
		"missing beside a replay":          {report{Replayed: []Replayed{{Beside: Latency{Missing: 1}}}}, true},
		"a deliverer that ended by itself": {report{Crashes: []string{"deliverer ended by itself"}}, true},
	} {
		if err := c.r.wrong(); (err != nil) != c.wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
}
