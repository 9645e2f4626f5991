package rig

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Disk is a file system in memory of a fixed size, to be filled.
type Disk struct{ dir string }

// ErrNoDisk: this machine lets us mount nothing.
var ErrNoDisk = errors.New("no right to mount a file system")

// NewDisk mounts one at dir, which is made.
func NewDisk(dir string, size int64) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("hookferry-rig", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDisk, err)
	}
	return &Disk{dir}, nil
}

// CanMount says whether NewDisk would do, by trying.
func CanMount() bool {
	dir, err := os.MkdirTemp("", "hookferry-rig-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	d, err := NewDisk(dir, 1<<20)
	return err == nil && d.Close() == nil
}

// Fill writes a file until not a byte is free, and returns what removes it.
func (d *Disk) Fill() (empty func() error, err error) {
	name := filepath.Join(d.dir, "ballast") // no directory, so Kafka takes it for no partition
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		n, err := f.Write(block)
		switch {
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, io.ErrShortWrite):
			block = block[:len(block)/2]
		case err != nil:
			return nil, err
		case n == 0:
			return nil, errors.New("a write of nothing")
		}
	}
	return func() error { return os.Remove(name) }, nil
}

// Close unmounts it, with all that is on it.
func (d *Disk) Close() error { return syscall.Unmount(d.dir, syscall.MNT_DETACH) }
