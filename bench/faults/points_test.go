package main

import (
	"math/rand/v2"
	"testing"

	"github.com/hookferry/hookferry/internal/fault"
)

// A point that nothing brings a process to is not tested: the matrix would have no cell for it.
func TestEveryPointHasItsErrand(t *testing.T) {
	for i := range fault.Points {
		p := fault.Point(i)
		if len(errands[p]) == 0 {
			t.Errorf("no errand brings a process to %s", fault.Points[p].Name)
		}
		for _, e := range errands[p] {
			if e.who != "router" && e.who != "deliverer" && e.who != "command" {
				t.Errorf("%s: nobody is called %q", fault.Points[p].Name, e.who)
			}
		}
	}
	if len(errands) != len(fault.Points) {
		t.Errorf("%d points have errands, there are %d", len(errands), len(fault.Points))
	}
}

// The forms hold what they say: the long one each cell of the matrix, the usual one each kill, the short one each point once.
func TestTheFormsOfTheMatrix(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	count := func(f form) (cells map[fault.Cell]bool, points map[fault.Point]int) {
		cells, points = map[fault.Cell]bool{}, map[fault.Point]int{}
		for _, c := range pointCells(f, rng) {
			cells[c.Cell] = true
			points[c.Point]++
		}
		return cells, points
	}
	all, _ := count(formLong)
	for _, c := range fault.Matrix() {
		if !all[c] {
			t.Errorf("the long form leaves out %v", c)
		}
	}
	kills, _ := count(formUsual)
	if len(kills) != 2*len(fault.Points) {
		t.Errorf("%d kills, want both sides of %d points", len(kills), len(fault.Points))
	}
	short, points := count(formShort)
	if len(short) != len(fault.Points) || len(points) != len(fault.Points) {
		t.Errorf("the short form has %d cells of %d points, want %d", len(short), len(points), len(fault.Points))
	}
	sides := map[fault.Side]int{}
	for c := range short {
		sides[c.Side]++
	}
	if sides[fault.SideBefore] == 0 || sides[fault.SideAfter] == 0 {
		t.Errorf("the short form kills on one side only: %v", sides)
	}
}
