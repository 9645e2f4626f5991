// Package recent knows the latest bookings of each company. The platform's page lists "Recent Reservations" in a row without a trigger and without data;
// what it is here is our interpretation (docs/recent.md): a list of bookings by last change, to be asked for, and an event that carries it.
//
// Start reading at Model, which is pure: changes in, lists out. Everything else brings it records or asks it.
//
//	model.go     what stands, of each booking and each company
//	line.go      one line of the list, from the JSON of a booking
//	decode.go    from a record of the topic of bookings to a change
//	log.go       follows the topic; rebuilt from it at every start, because nothing is kept elsewhere
//	snapshot.go  the event, published once for a request
//	service.go   the service; answer.go: what it answers; read.go: the same for a command, without a service
//
// # What must stay true
//
//   - The answer depends on the log alone: two processes, or one before and after a restart, give the same.
//   - A record that cannot be read is passed over and counted. It stands in `undecodable` by the router's hand, and nothing stops for it here.
//   - A snapshot holds everything that was acknowledged before it was asked for.
package recent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
)

// Deps are what the service works with. It closes none of it.
type Deps struct {
	Kafka   *kafka.Client
	Publish Publish
	Log     *zap.Logger
	Metrics prometheus.Registerer // nil: not registered
	// Listen opens the listener; nil: net.Listen. For a world without a network.
	Listen func(network, address string) (net.Listener, error)
}

// Service answers for the latest bookings. As many as like may run: each reads all bookings for itself, and publishes what it is asked to.
type Service struct {
	cfg       Config
	log       *zap.Logger
	bookings  *bookings
	publisher *publisher
	metrics   *metrics
	listen    func(network, address string) (net.Listener, error)

	mu   sync.Mutex
	addr string
}

// New makes a service. It makes no round trip; a Service runs once.
func New(cfg Config, d Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("recent: %w", err)
	}
	if cfg.Listen == "" {
		return nil, fmt.Errorf("recent: %w", &FieldError{"listen", "is empty: there is nowhere to answer"})
	}
	s := &Service{cfg: cfg, log: d.Log, listen: d.Listen}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	s.log = s.log.Named("recent")
	if s.listen == nil {
		s.listen = net.Listen
	}
	var err error
	if s.metrics, err = newMetrics(d.Metrics, func() float64 { return s.bookings.age() }); err != nil {
		return nil, err
	}
	s.bookings = newBookings(d.Kafka, s.log, s.metrics, "")
	s.publisher = newPublisher(s.bookings, d.Publish, s.metrics)
	return s, nil
}

// Name is the service's name.
func (s *Service) Name() string { return "recent" }

// Ready says why nothing is answered yet.
func (s *Service) Ready() error { return s.bookings.loading() }

// Addr is where it answers; empty before it runs.
func (s *Service) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

type listenError struct {
	address string
	err     error
}

func (e *listenError) Error() string {
	return fmt.Sprintf("cannot answer for recent reservations on %s: %v (does another process serve there? recent.listen chooses another address, and \"\" none)", e.address, e.err)
}
func (e *listenError) Unwrap() error { return e.err }
func (e *listenError) Code() string  { return "listen_failed" }

// Run serves until ctx ends, and returns when everything it started has ended:
//
//	Run ─┬─ bookings.follow   see there
//	     └─ http.Server       a goroutine per connection
func (s *Service) Run(ctx context.Context) error {
	l, err := s.listen("tcp", s.cfg.Listen)
	if err != nil {
		return &listenError{s.cfg.Listen, err}
	}
	s.mu.Lock()
	s.addr = l.Addr().String()
	s.mu.Unlock()
	s.log.Info("answering for recent reservations", zap.String("address", s.addr))
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	server := &http.Server{
		Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return asking },
		ErrorLog: zap.NewStdLog(s.log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
	}
	var wg sync.WaitGroup
	var followErr, serveErr error
	wg.Go(func() {
		followErr = s.bookings.follow(asking)
		stopAsking()
	})
	wg.Go(func() {
		if serveErr = server.Serve(l); errors.Is(serveErr, http.ErrServerClosed) {
			serveErr = nil
		}
		stopAsking()
	})
	<-asking.Done()
	// What is being published is given a moment; who waits for it asks again elsewhere, under the same id.
	limit, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if server.Shutdown(limit) != nil {
		server.Close()
	}
	wg.Wait()
	if ctx.Err() != nil {
		followErr = nil
	}
	return errors.Join(followErr, serveErr)
}
