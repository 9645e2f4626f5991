package subscriptions

import (
	"slices"
	"strings"

	"github.com/hookferry/hookferry/schemas"
)

// wanted is a set of event types of the catalogue, one bit each, in catalogue order.
type wanted uint64

// The catalogue never changes in a process, so these are made once, before main.
var (
	typeNumber  = map[string]int{}    // by event type
	typeBit     = map[string]wanted{} // by event type
	patternBits = map[string]wanted{} // by every pattern that stands for something that exists
)

func init() {
	for i, t := range schemas.AllEventTypes() {
		if i >= 64 {
			panic("BUG: more event types than bits")
		}
		bit := wanted(1) << i
		typeNumber[t.Name], typeBit[t.Name] = i, bit
		entity, trigger, _ := strings.Cut(t.Name, ".")
		patterns := []string{"*", t.Name, entity + ".*", "*." + trigger}
		if t.Internal {
			patterns = []string{t.Name, entity + ".*"}
		}
		for _, pattern := range patterns {
			patternBits[pattern] |= bit
		}
	}
}

// Matches says whether one of the patterns stands for an event type. Without a pattern every type does.
func Matches(patterns []string, eventType string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return matchesText(p, eventType) })
}

// CheckPatterns refuses patterns that stand for nothing that exists, and joins those that say the same. None at all is right: every type is meant.
func CheckPatterns(patterns []string) ([]string, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	c := &checks{}
	out := c.events(patterns)
	return out, c.refusals.err()
}

// matchesText matches by text alone, for types that this build's catalogue does not hold (a newer publisher). An internal type is wanted by who names its
// entity: "*" and "*.trigger" stand for what upstream services publish, and who subscribed to everything shall not get, from one release to the next, a
// body of up to 500 bookings that he has had before.
func matchesText(pattern, eventType string) bool {
	if pattern == eventType {
		return true
	}
	if entity, ok := strings.CutSuffix(pattern, ".*"); ok {
		have, _, _ := strings.Cut(eventType, ".")
		return have == entity
	}
	if t, ok := schemas.EventTypeByName(eventType); ok && t.Internal {
		return false
	}
	if pattern == "*" {
		return true
	}
	if trigger, ok := strings.CutPrefix(pattern, "*."); ok {
		_, have, found := strings.Cut(eventType, ".")
		return found && have == trigger
	}
	return false
}

// wants joins the patterns of a subscription: a type ("booking.creation"), all of an entity ("booking.*"), a trigger of all entities ("*.removal"), or
// everything that upstream services publish ("*").
func wants(patterns []string) wanted {
	var set wanted
	for _, p := range patterns {
		set |= patternBits[p]
	}
	return set
}
