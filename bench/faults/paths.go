package main

// mixedPaths: what the receivers of a sweep do.
func mixedPaths(company, i int) string { return "/ok" }
