// Package egress decides which addresses may be reached from here, and is the only place that reaches them.
//
// A webhook's URL is chosen by somebody else, so every outbound connection is an attack until three layers have said otherwise, each of which must
// hold alone:
//
//	admission    Policy.CheckURL   parses once into a canonical form; that form is stored, shown and dialled
//	resolution   Policy.DialContext asks our own resolver, without search domains; one forbidden answer refuses all
//	dial         the control hook   re-checks the address that the kernel is about to use
//
// CheckURL and CheckAddr are pure but for the host's own addresses, which are read again now and then. Every refusal is a *Refusal with a stable
// code (Codes lists them); every failed dial is a *DialError with a Kind from a closed list, and its text is for the operator's log only: a company
// that could read it would have a port scanner.
//
// No other package may name http.Client, http.Transport, net.Dial or net.Dialer for HTTP; Policy.HTTPClient is the one constructor.
// The package imports nothing of ours.
package egress
