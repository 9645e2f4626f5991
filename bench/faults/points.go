package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/internal/fault"
)

// The named points of internal/fault, one after the other: a process that carries the order to be hurt is brought to its point by a small workload, is
// killed, stopped or given an error there, before or after the step, and mended. The matrix comes from the list of points; a cell that is not reached is a
// failure, and so is whatever is lost or comes twice without a carrier's death to explain it.

var pointScenarios = []scenario{
	{name: "points", what: "each named point of the code, before and after its step", alone: runPoints, enumerated: true, from: formShort},
}

// pointWorlds is how many cells run side by side: most of each is waiting for a group to miss a member.
const pointWorlds = 6

// pointCells is what the command line asks for: kills in the usual form, everything in the long one, each point killed once in the smaller ones.
func pointCells(f form, rng *rand.Rand) (out []pointCell) {
	for _, c := range fault.Matrix() {
		for i, e := range errands[c.Point] {
			switch {
			case c.Kind != fault.Kill && f != formLong:
				continue
			case f <= formMiddle && (i > 0 || (c.Side == fault.SideAfter) != (int(c.Point)%2 == 0)):
				continue
			}
			out = append(out, pointCell{c, e, 1 + rng.IntN(max(1, e.spread))})
		}
	}
	return out
}

// pointCell is one cell with the errand that brings it about.
type pointCell struct {
	fault.Cell
	errand errand
	nth    int
}

func (c *pointCell) String() string {
	return fmt.Sprintf("%s by a %s, time %d", c.Cell, c.errand.who, c.nth)
}

// runPoints is the scenario "points". The flag -cells narrows it to those whose text holds one of its parts.
func runPoints(ctx context.Context, r *runner, s *scenario) error {
	began := time.Now()
	d, err := r.deployment(ctx, s.config(r.dir))
	if err != nil {
		return err
	}
	shared := &pointRig{d: d, bin: filepath.Join(d.Dir, "hookferry-points")}
	build := exec.CommandContext(ctx, "go", "build", "-tags", "faultpoints", "-o", shared.bin, "github.com/hookferry/hookferry/cmd/hookferry")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build hookferry with its fault points: %w: %s", err, out)
	}
	if shared.registry, err = startPointRegistry(); err != nil {
		return err
	}
	defer shared.registry.ln.Close()
	all := pointCells(r.form, rand.New(rand.NewPCG(r.seed, 2)))
	if r.cells != "" {
		var some []pointCell
		for _, c := range all {
			for part := range strings.SplitSeq(r.cells, ",") {
				if strings.Contains(c.String(), part) {
					some = append(some, c)
					break
				}
			}
		}
		all = some
	}
	b := &pointBook{kinds: map[fault.Kind]int{}}
	b.through(ctx, shared, all, r.seed)
	text := fmt.Sprintf("%d of %d cells reached (%d kills, %d stalls, %d errors) at %d points, deliveries %d, duplicates %d, broken %d (%.0f s, seed %d)",
		b.kinds[fault.Kill]+b.kinds[fault.Stall]+b.kinds[fault.Fail], len(all), b.kinds[fault.Kill], b.kinds[fault.Stall], b.kinds[fault.Fail],
		len(fault.Points), pointDeliveries.Load(), pointDuplicates.Load(), len(b.broken), time.Since(began).Seconds(), r.seed)
	b.sum(&r.sum)
	if len(b.broken) > 0 || ctx.Err() != nil {
		fmt.Printf("FAIL  %-16s %s\n", s.name, text)
		return errors.Join(errBroken, ctx.Err())
	}
	fmt.Printf("ok    %-16s %s: %s\n", s.name, s.what, text)
	return nil
}

// pointBook is what the worlds have been through.
type pointBook struct {
	mu     sync.Mutex
	next   int
	kinds  map[fault.Kind]int
	broken []error
}

// through sends the worlds through all cells. A world in which a promise broke is not used again: its topics are left and it gets new ones.
func (b *pointBook) through(ctx context.Context, shared *pointRig, all []pointCell, seed uint64) {
	var worlds sync.WaitGroup
	for n := range min(pointWorlds, len(all)) {
		worlds.Go(func() {
			w, err := newPointWorld(ctx, shared, n)
			if err != nil {
				b.add(nil, fmt.Errorf("world %d: %w", n, err), 0)
				return
			}
			defer w.close()
			for {
				c := b.take(all)
				if c == nil || ctx.Err() != nil {
					return
				}
				began := time.Now()
				err := w.cell(ctx, c.Cell, c.errand, c.nth, seed)
				if b.add(c, err, time.Since(began)); err != nil {
					if err := w.renew(ctx); err != nil {
						b.add(nil, fmt.Errorf("world %d: %w", n, err), 0)
						return
					}
				}
			}
		})
	}
	worlds.Wait()
}

// sum enters what all cells came to.
func (b *pointBook) sum(t *tally) {
	t.kills += b.kinds[fault.Kill]
	t.enumerated += b.kinds[fault.Kill]
	t.places.deliveries += int(pointDeliveries.Load())
	t.places.duplicates += int(pointDuplicates.Load())
	t.places.lost += int(pointLost.Load())
}

func (b *pointBook) take(all []pointCell) *pointCell {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == len(all) {
		return nil
	}
	b.next++
	return &all[b.next-1]
}

func (b *pointBook) add(c *pointCell, err error, took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.kinds[c.Kind]++
		fmt.Printf("      ok    %s (%.1f s)\n", c, took.Seconds())
		return
	}
	if c != nil {
		err = fmt.Errorf("%s: %w", c, err)
	}
	fmt.Printf("      FAIL  %v (%.1f s)\n", err, took.Seconds())
	b.broken = append(b.broken, err)
}
