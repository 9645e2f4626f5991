// Package fault holds the named points at which a test build can be hurt: each stands around one step that moves durable state, or the state in memory
// that durable state is made from, from one place to the next. A process built with -tags faultpoints (on Linux) can be told to die, to stand still or
// to get an error right before or right after such a step; in every other build Before and After are empty, are inlined, and leave nothing behind,
// not even the names of the points (a test looks into the ordinary binary).
//
// points.go has the list: the one place where a point is named and told. A test holds the list to the source and the source to the list, and the matrix
// of bench/faults is generated from it and fails for every cell that was not reached, so a point without a test fails the build.
//
// The orders come from the environment, HOOKFERRY_FAULT="router.tasks:after:kill:2"; see Parse. What was done is appended to the file that
// HOOKFERRY_FAULT_LOG names, one line each, before it is done: so the one who looks on knows that a point was reached, and when, even after a SIGKILL.
//
// Use:
//
//	err := fault.Before(fault.RouterTasks)
//	if err == nil {
//		_, err = appender.Append(ctx, &tasks)
//		err = fault.After(fault.RouterTasks, err)
//	}
//
// An injected error before a step means that the step was not made; one after it, that it was made and its answer was lost. Where a step cannot
// fail, both are called for their other effects alone.
package fault
