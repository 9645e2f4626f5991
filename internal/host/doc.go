// Package host runs services in a process: it starts them in order, listens for signals, shows health and metrics, and stops them in reverse.
//
// A service is a name and a Run that returns when all it started has ended. The host knows nothing else about it; what a service
// answers to Ready, if it has one, decides /readyz.
//
//	Run ─┬─ listener      /metrics /healthz /readyz: first to start, last to stop, so that a stop can be watched
//	     ├─ service 1
//	     ├─ service 2     stopped before service 1, which it may need to finish
//	     └─ (Run itself)  waits for a signal, the caller's context, or the end of any service
//
// A panic is nobody's to swallow: a service that panics ends the process, with its stack.
package host
