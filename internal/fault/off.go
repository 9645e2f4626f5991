//go:build !faultpoints || !linux

package fault

// Enabled says whether this build can be hurt.
const Enabled = false

// Before stands in front of the step of a point. An error, only ever injected, stands for one of the step, which then was not made.
func Before(Point) error { return nil }

// After stands behind the step of a point and passes its error on, or an injected one in place of none.
func After(_ Point, err error) error { return err }
