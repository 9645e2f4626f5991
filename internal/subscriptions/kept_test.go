package subscriptions

import "testing"

func TestWhatATopicsSettingsPromiseToKeep(t *testing.T) {
	const now = 1_000_000
	for name, c := range map[string]struct {
		settings map[string]string
		from     int64
		want     bool
	}{
		"within its age":          {map[string]string{"retention.ms": "1000", "retention.bytes": "-1"}, now - 1000, true},
		"older than its age":      {map[string]string{"retention.ms": "1000", "retention.bytes": "-1"}, now - 1001, false},
		"no bound by size named":  {map[string]string{"retention.ms": "1000"}, now, true},
		"for ever":                {map[string]string{"retention.ms": "-1"}, 1, true},
		"bounded by size":         {map[string]string{"retention.ms": "-1", "retention.bytes": "1000"}, now, false},
		"nothing is known":        {nil, now, false},
		"what is no number is no": {map[string]string{"retention.ms": "1000", "retention.bytes": "much"}, now, false},
	} {
		if got := keptSince(c.settings, c.from, now); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
