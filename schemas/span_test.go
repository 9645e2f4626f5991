package schemas

import (
	"slices"
	"strings"
	"testing"
)

// life: backfilled from 100, live from 200, paused from 300, live again from 400, disabled from 500.
func life() *Subscription {
	return &Subscription{ID: "sub_a", Company: "c", BackfillFrom: 100, Spans: []Cut{
		{200, CutLive, "rpl_1"}, {300, CutPaused, "lunch"}, {400, CutLive, "rpl_2"}, {500, CutPaused, "gone"}}}
}

func TestEveryAppendTimeIsRoutedByOneSideOfACut(t *testing.T) {
	s := life()
	for at, want := range map[int64]string{0: "nobody", 99: "nobody", 100: "rpl_1", 199: "rpl_1", 200: "", 299: "", 300: "rpl_2", 399: "rpl_2", 400: "", 499: "", 500: "nobody", 9999: "nobody"} {
		got, ok := s.RoutedAs(at)
		if !ok {
			got = "nobody"
		}
		if got != want {
			t.Errorf("at %d: %q, want %q", at, got, want)
		}
		if live := ok && got == ""; live != s.LiveAt(at) {
			t.Errorf("at %d: RoutedAs and LiveAt differ", at)
		}
	}
	plain := &Subscription{Spans: []Cut{{200, CutLive, ""}}}
	if got, ok := plain.RoutedAs(199); ok {
		t.Errorf("before the first cut of a subscription without backfill: %q", got)
	}
	if got, ok := (&Subscription{BackfillFrom: 100}).RoutedAs(150); ok {
		t.Errorf("before there is a cut: %q", got)
	}
}

func TestACatchUpCoversItsSpanAndWhatARouterMayHavePassedOver(t *testing.T) {
	s := life()
	s.Spans = append(s.Spans, Cut{70_000, CutLive, "rpl_3"})
	for name, c := range map[string]struct {
		order Replay
		to    int64 // 0: it waits
		want  map[int64]string
	}{
		"confirmed at its cut": {Replay{ID: "rpl_2", From: 300, To: 400}, 400, map[int64]string{299: "no", 300: "rpl_2", 399: "rpl_2", 400: "no"}},
		"its write was late":   {Replay{ID: "rpl_2", From: 300, To: 450}, 450, map[int64]string{399: "rpl_2", 400: "", 449: "", 450: "no"}},
		"its writer died":      {Replay{ID: "rpl_2", From: 300}, 60_400, map[int64]string{300: "rpl_2", 400: "", 499: "", 500: "no", 60_399: "no"}},
		"a backfill":           {Replay{ID: "rpl_1", From: 100, To: 200}, 200, map[int64]string{99: "no", 100: "rpl_1", 199: "rpl_1", 200: "no"}},
		"named by no cut":      {Replay{ID: "rpl_x", From: 300, To: 400}, 0, map[int64]string{300: "no", 350: "no"}},
	} {
		t.Run(name, func(t *testing.T) {
			to, ok := s.CatchUpEnd(&c.order)
			if to != c.to || ok != (c.to != 0) {
				t.Errorf("ends at %d, %v; want %d", to, ok, c.to)
			}
			for at, want := range c.want {
				got, ok := s.CatchesUp(&c.order, at)
				if !ok {
					got = "no"
				}
				if got != want {
					t.Errorf("at %d: %q, want %q", at, got, want)
				}
			}
		})
	}
}

func TestAnOrderIsOverWhenNoCutCanNameItAnyMore(t *testing.T) {
	s := life()
	for name, c := range map[string]struct {
		order Replay
		want  bool
	}{
		"named":                                {Replay{ID: "rpl_2", From: 300}, false},
		"its span is still open":               {Replay{ID: "rpl_x", From: 500}, false},
		"its span is closed by another's name": {Replay{ID: "rpl_x", From: 300}, true},
	} {
		if got := s.CatchUpOver(&c.order); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	s.State = StateDeleted
	if !s.CatchUpOver(&Replay{ID: "rpl_2", From: 300}) {
		t.Error("the order of a deleted subscription goes on")
	}
}

func TestPausedAtIsTheFirstCutOfThePauseThatLasts(t *testing.T) {
	s := life()
	if got := s.PausedAt(); got != 500 {
		t.Errorf("%d", got)
	}
	s.Spans = append(s.Spans, Cut{600, CutPaused, ""})
	if got := s.PausedAt(); got != 500 {
		t.Errorf("paused twice: %d", got)
	}
	s.Spans = s.Spans[:3]
	if got := s.PausedAt(); got != 0 {
		t.Errorf("live: %d", got)
	}
	if to, closed := s.SpanEnd(300); to != 400 || !closed {
		t.Errorf("the span ends at %d, %v", to, closed)
	}
	if to, closed := s.SpanEnd(500); closed {
		t.Errorf("an open span ends at %d", to)
	}
}

func TestARedriveAfterAPauseIsOneOrderHoweverOftenItIsWritten(t *testing.T) {
	s := life()
	a, b := PausedRedrive(s, 500, 1), PausedRedrive(s, 500, 2)
	if a.ID != b.ID || !strings.HasPrefix(a.ID, "rpl_") || len(a.ID) != 4+IDLength {
		t.Errorf("%q and %q", a.ID, b.ID)
	}
	if c := PausedRedrive(s, 300, 1); c.ID == a.ID {
		t.Error("two pauses have one redrive")
	}
	if a.Cut != 500 || a.Reason != ReasonPaused || a.Kind != ReplayRedrive || a.Subscription != "sub_a" || len(a.Ends) != 0 {
		t.Errorf("%+v", a)
	}
}

func TestOnlyWhatTheLivePathRoutedBehindAPauseIsLeftToTheCatchUp(t *testing.T) {
	s := life()
	for name, c := range map[string]struct {
		task Task
		want bool
	}{
		"routed before the pause":              {Task{Source: Source{Time: 250}}, false},
		"routed live behind the pause":         {Task{Source: Source{Time: 350}}, true},
		"routed by the catch-up, paused again": {Task{Source: Source{Time: 350}, Replay: "rpl_2", Lane: LaneCatchUp}, false},
		"replayed":                             {Task{Source: Source{Time: 350}, Replay: "rpl_9", Lane: LaneReplay}, false},
		"made for this subscription":           {Task{Source: Source{Time: 150}, EntityID: "sub_a"}, false},
		"its span is still open":               {Task{Source: Source{Time: 550}}, false},
	} {
		if got := s.CaughtUp(&c.task); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestTheRedrivesOfPausesThatWereResumed(t *testing.T) {
	live := func(at int64, reason string) Cut { return Cut{At: at, Kind: CutLive, Reason: reason} }
	paused := func(at int64) Cut { return Cut{At: at, Kind: CutPaused} }
	for _, c := range []struct {
		name  string
		spans []Cut
		want  []int64 // the cuts that their ids name
	}{
		{"never paused", []Cut{live(1, "rpl_backfill")}, nil},
		{"paused still", []Cut{live(1, ""), paused(2)}, nil},
		{"resumed", []Cut{live(1, ""), paused(2), live(3, "rpl_a")}, []int64{2}},
		{"by a cut that names no catch-up, so there were no orders", []Cut{live(1, ""), paused(2), live(3, "")}, nil},
		{"twice, and paused again", []Cut{live(1, ""), paused(2), live(3, "rpl_a"), paused(4), live(5, "rpl_b"), paused(6)}, []int64{2, 4}},
		{"a pause of two cuts", []Cut{live(1, ""), paused(2), paused(3), live(4, "rpl_a")}, []int64{2}},
	} {
		s := Subscription{ID: "sub_1", Spans: c.spans}
		var want []string
		for _, at := range c.want {
			want = append(want, PausedRedriveID(s.ID, at))
		}
		if got := s.ResumedRedrives(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", c.name, got, want)
		}
	}
}
