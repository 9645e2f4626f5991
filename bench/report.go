package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/hookferry/hookferry/bench/rig"
)

type report struct {
	Machine, At           string
	EventBytes, BodyBytes int
	BareBefore, BareAfter rig.Bare
	Sustained             []Sustained
	Latency               []Latency
	Hanging               []Hanging
	Replayed              []Replayed
	Verified              *Verified // nil: not asked
	Ordered               *Ordered  // nil: not measured
	Crashes               []string  // of our own processes
}

// Sustained is the rate with the publisher running along. CPU in microseconds a delivery, by process.
type Sustained struct {
	FanOut              int
	PerSecond           float64
	CPUMicros           map[string]float64
	Missing, Duplicates int
}

// Latency in milliseconds from when an event was due to when its receiver had read the request. Hop50 and Hop99 are the floor: one append and one fetch
// of a record of that size on this broker, at that rate, with nothing else running; an event's way has two of them.
type Latency struct {
	PerSecond           float64
	P50, P99, Max       float64
	Mean, Slowest       rig.Stages // the slowest hundredth
	Hop50, Hop99        float64
	Missing, Duplicates int
}

// Hanging is the p99 of eight healthy receivers beside two that hang, and that of ten healthy ones.
type Hanging struct {
	PerSecond          float64
	AllHealthy, Beside Latency
	Ratio              float64
}

// goals of the issue that this bench was built for.
var (
	goalShare   = map[int]float64{1: 50, 10: 60}
	goalLatency = map[float64]string{100: " (goal <= 2 / 6 ms)"}
)

// wrong says what should not have been, whatever the rates: something that did not arrive, came twice, or a process that ended by itself.
func (r *report) wrong() error {
	var errs []error
	look := func(phase string, missing, duplicates int) {
		if missing != 0 || duplicates != 0 {
			errs = append(errs, fmt.Errorf("%s: missing %d, duplicates %d", phase, missing, duplicates))
		}
	}
	for _, s := range r.Sustained {
		look(fmt.Sprintf("fan-out %d", s.FanOut), s.Missing, s.Duplicates)
	}
	for _, l := range r.Latency {
		look(fmt.Sprintf("latency at %.0f/s", l.PerSecond), l.Missing, l.Duplicates)
	}
	for _, h := range r.Hanging {
		look(fmt.Sprintf("all healthy at %.0f/s", h.PerSecond), h.AllHealthy.Missing, h.AllHealthy.Duplicates)
		look(fmt.Sprintf("beside hanging ones at %.0f/s", h.PerSecond), h.Beside.Missing, h.Beside.Duplicates)
	}
	for _, p := range r.Replayed {
		look("the replay", p.Missing, 0)
		if !p.Killed {
			look("the replay", 0, p.Duplicates)
		}
		look("beside the replay", p.Beside.Missing, p.Beside.Duplicates)
	}
	if v := r.Verified; v != nil && (v.Missing != 0 || v.Delivered != v.Owed) {
		errs = append(errs, fmt.Errorf("verify: %d delivered of %d owed, %d missing", v.Delivered, v.Owed, v.Missing))
	}
	if o := r.Ordered; o != nil {
		look("entities in order", o.Healthy.Missing, o.Healthy.Duplicates)
		look("entities in order beside failing ones", o.Beside.Missing, o.Beside.Duplicates)
	}
	for _, c := range r.Crashes {
		errs = append(errs, errors.New(c))
	}
	return errors.Join(errs...)
}

func (r *report) print(w io.Writer) {
	bare := (r.BareBefore.PerSecond + r.BareAfter.PerSecond) / 2
	cpu := float64((r.BareBefore.CPU + r.BareAfter.CPU).Nanoseconds()) / 2000
	fmt.Fprintf(w, "machine    %s\n", r.Machine)
	fmt.Fprintf(w, "sizes      event %d B (Avro), body %d B (JSON)\n", r.EventBytes, r.BodyBytes)
	fmt.Fprintf(w, "bare loop  %.0f/s before, %.0f/s after (net/http, signed, 32 connections), %.1f us CPU a request\n", r.BareBefore.PerSecond, r.BareAfter.PerSecond, cpu)
	for _, s := range r.Sustained {
		var ours float64
		fmt.Fprintf(w, "fan-out %-2d %.0f deliveries/s = %.0f %% of the bare loop (goal >= %.0f %%), missing %d, duplicates %d\n", s.FanOut, s.PerSecond, 100*s.PerSecond/bare, goalShare[s.FanOut], s.Missing, s.Duplicates)
		for _, n := range slices.Sorted(maps.Keys(s.CPUMicros)) {
			if fmt.Fprintf(w, "           %-10s %.4f CPU-s per 1000 deliveries\n", n, s.CPUMicros[n]/1000); n != "farm" {
				ours += s.CPUMicros[n]
			}
		}
		fmt.Fprintf(w, "           %-10s %.4f CPU-s per 1000 = %.2f x the bare client (goal < 3)\n", "system", ours/1000, ours/cpu)
	}
	for _, l := range r.Latency {
		fmt.Fprintf(w, "latency    %5.0f/s  p50 %.1f ms  p99 %.1f ms  max %.1f ms%s  missing %d, duplicates %d; one bare Kafka hop: p50 %.1f, p99 %.1f ms\n",
			l.PerSecond, l.P50, l.P99, l.Max, goalLatency[l.PerSecond], l.Missing, l.Duplicates, l.Hop50, l.Hop99)
		l.printStages(w, "mean", "slowest 1 %")
	}
	for _, h := range r.Hanging {
		fmt.Fprintf(w, "2 hang     %5.0f/s  p99 of the healthy %.1f ms, all healthy %.1f ms: %.2f x (goal <= 1.2), missing %d\n", h.PerSecond, h.Beside.P99, h.AllHealthy.P99, h.Ratio, h.Beside.Missing)
		h.AllHealthy.printStages(w, "all healthy", "  slowest 1 %")
		h.Beside.printStages(w, "beside", "  slowest 1 %")
	}
	for _, p := range r.Replayed {
		p.print(w)
	}
	if v := r.Verified; v != nil {
		fmt.Fprintf(w, "verify     %d events in the log, %d owed to one subscription, %d delivered, missing %d, in %.1f s\n", v.Events, v.Owed, v.Delivered, v.Missing, v.Took.Seconds())
	}
	if o := r.Ordered; o != nil {
		fmt.Fprintf(w, "order      %.0f/s  p99 of entities beside failing ones of their subscription %.1f ms, without %.1f ms: %.2f x (goal <= 1.2); missing %d, %d requests refused\n",
			o.Beside.PerSecond, o.Beside.P99, o.Healthy.P99, o.Ratio, o.Healthy.Missing+o.Beside.Missing, o.Refused)
		o.Healthy.printStages(w, "without", "  slowest 1 %")
		o.Beside.printStages(w, "beside", "  slowest 1 %")
	}
}

func (r *Replayed) print(w io.Writer) {
	how, goal := "as fast as it goes", ""
	switch {
	case r.Killed:
		how = "router killed at a third"
	case r.Rate > 0:
		how, goal = fmt.Sprintf("at %.0f/s", r.Rate), " (goal <= 1.1)"
	}
	fmt.Fprintf(w, "replay     %d %s beside %.0f/s: p99 of live %.1f ms, alone %.1f ms: %.2f x%s; missing %d, duplicates %d, in %.1f s\n",
		r.Events, how, replayLive, r.Beside.P99, r.Alone.P99, r.Ratio, goal, r.Missing, r.Duplicates, r.Took.Seconds())
	r.Beside.printStages(w, "live", "  slowest 1 %")
	if l := r.AsLive; l != nil {
		fmt.Fprintf(w, "           beside %.0f/s more of live instead: p99 %.1f ms, %.2f x\n", r.Rate, l.P99, l.P99/r.Alone.P99)
		l.printStages(w, "live", "  slowest 1 %")
	}
	fmt.Fprint(w, "           cores used")
	for _, n := range slices.Sorted(maps.Keys(r.Cores)) {
		fmt.Fprintf(w, "  %s %.2f", n, r.Cores[n])
		if alone, ok := r.CoresAlone[n]; ok {
			fmt.Fprintf(w, " (%.2f alone)", alone)
		}
	}
	fmt.Fprintln(w)
}

// printStages says where the time went, on the average and of the slowest hundredth.
func (l *Latency) printStages(w io.Writer, mean, slowest string) {
	for _, s := range []struct {
		who string
		rig.Stages
	}{{mean, l.Mean}, {slowest, l.Slowest}} {
		fmt.Fprintf(w, "           %-14s published in %.1f ms, routed in %.1f, delivered in %.1f\n", s.who, ms(s.Published), ms(s.Routed), ms(s.Delivered))
	}
}
