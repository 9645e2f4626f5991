//go:build !(linux && amd64)

package main

import "errors"

// startExact is there for Linux on amd64 only.
func startExact(string, []string, []string, int) (*childProcess, error) {
	return nil, errors.ErrUnsupported
}
