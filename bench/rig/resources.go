package rig

import "fmt"

// Resources are what a service holds, by its own /metrics.
type Resources struct {
	Goroutines, Descriptors int64
	RSS                     int64 // bytes
}

func (r Resources) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d MiB", r.Goroutines, r.Descriptors, r.RSS>>20)
}

// Resources of each service that answers.
func (d *Deployment) Resources() map[string]Resources {
	all := map[string]Resources{}
	for name := range d.Services {
		goroutines, err := d.Metric(name, "go_goroutines")
		fds, err2 := d.Metric(name, "process_open_fds")
		rss, err3 := d.Metric(name, "process_resident_memory_bytes")
		if err != nil || err2 != nil || err3 != nil {
			continue
		}
		all[name] = Resources{int64(goroutines), int64(fds), int64(rss)}
	}
	return all
}
