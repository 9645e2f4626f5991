package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/router"
	"github.com/hookferry/hookferry/schemas"
)

// A filter with a mistake in it finds nothing, and nothing looks like an answer: "no attempts", "nothing waits". So each kind of filter is checked here
// against what it could mean, before anything is read.

// oneOf refuses a value that is not in a closed list. Empty: not given.
func oneOf[T ~string](flag string, value T, list []T) error {
	if value == "" || slices.Contains(list, value) {
		return nil
	}
	words := make([]string, 0, len(list))
	for _, w := range list {
		if w != "" {
			words = append(words, string(w))
		}
	}
	return usagef("--%s: %q is none of %s", flag, value, strings.Join(words, ", "))
}

func checkVerdict(v schemas.Verdict) error { return oneOf("verdict", v, schemas.Verdicts()) }

func checkReason(r schemas.Reason) error { return oneOf("reason", r, schemas.Reasons()) }

func checkUndecodableReason(r string) error {
	return oneOf("reason", r, router.UndecodableReasons())
}

// checkEventType is for one event type by its name, where no pattern may stand.
func checkEventType(flag, name string) error {
	if _, ok := schemas.EventTypeByName(name); ok || name == "" {
		return nil
	}
	return usagef("--%s: %q is no event type (hookferry schemas list has them all)", flag, name)
}

func checkState(s string) error {
	return oneOf("state", s, []string{schemas.StateActive, schemas.StatePaused, schemas.StateDisabled, schemas.StateDeleted})
}

// checkPositive is for a duration that is left out or is more than nothing.
func checkPositive(c *cobra.Command, flag string, d time.Duration) error {
	if c.Flags().Changed(flag) && d <= 0 {
		return usagef("--%s %v: it must be more than 0", flag, d)
	}
	return nil
}

// checkRate is for a rate per second where 0 means no bound.
func checkRate(flag string, rate float64) error {
	if rate < 0 || math.IsNaN(rate) || math.IsInf(rate, 0) {
		return usagef("--%s %v: it must be a number from 0 on", flag, rate)
	}
	return nil
}

// checkLimit is for how many rows are shown.
func checkLimit(limit int) error {
	if limit < 1 {
		return usagef("--limit must be at least 1")
	}
	return nil
}

// subscriptionThere refuses an id that no subscription bears. For commands that found nothing under it: what they read may know an id that the table has
// forgotten, a week after its deletion.
func (a *app) subscriptionThere(ctx context.Context, id string) error {
	t, err := a.table(ctx)
	if err != nil {
		return err
	}
	if _, ok := t.Get(id); !ok {
		return &refusal{subscriptions.CodeNotFound, fmt.Sprintf("there is no subscription with the id %q, and nothing is known under it", id)}
	}
	return nil
}
