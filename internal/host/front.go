package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewRegistry makes a registry with what is known about the process itself.
func NewRegistry(version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "hookferry", Name: "build_info", Help: "Always 1; the label says what runs."}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build)
	return reg
}

// front serves what operators and their machines look at. It is a service like the others, and the first.
type front struct {
	listener net.Listener
	server   *http.Server
}

func newFront(cfg Config, reg *prometheus.Registry, ready func() error) (*front, error) {
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, &listenError{cfg.Listen, err}
	}
	return &front{l, &http.Server{
		Handler:           routes(cfg, reg, ready),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute, // longer than the 30 s that a profile takes if nobody says otherwise
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}}, nil
}

type listenError struct {
	address string
	err     error
}

func (e *listenError) Error() string {
	return fmt.Sprintf("cannot serve metrics and health on %s: %v (does another process serve there? host.listen chooses another address, and \"\" none)", e.address, e.err)
}
func (e *listenError) Unwrap() error { return e.err }
func (e *listenError) Code() string  { return "listen_failed" }

func routes(cfg Config, reg *prometheus.Registry, ready func() error) http.Handler {
	mux := http.NewServeMux()
	if cfg.Profile {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg}))
	// Alive: the process answers. It says nothing about Kafka, because a restart would not bring Kafka back.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

func (f *front) addr() string { return f.listener.Addr().String() }

// Name is the service's name.
func (f *front) Name() string { return "front" }

// Run serves until ctx ends.
func (f *front) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(f.listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// A scrape under way is not worth a longer stop.
	limit, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if f.server.Shutdown(limit) != nil {
		f.server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
