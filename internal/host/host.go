package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Service is something that runs until it is told to stop.
type Service interface {
	Name() string
	// Run works until ctx ends, and returns when everything it started has ended: nil, or why it could not go on.
	Run(ctx context.Context) error
}

// Readier is a service that can say why it does not do its work yet; nil: it does.
type Readier interface{ Ready() error }

// StopError says that services did not stop: in time, or before the second signal.
type StopError struct {
	Why   string
	Still []string // in the order in which they would have been stopped
}

func (e *StopError) Error() string {
	return fmt.Sprintf("%s; still running: %s", e.Why, strings.Join(e.Still, ", "))
}

// Code is stable: programs may compare it.
func (e *StopError) Code() string { return "stop_incomplete" }

// ServiceError says which service ended although nobody had asked it to.
type ServiceError struct {
	Service string
	Err     error // nil: it gave no reason
}

func (e *ServiceError) Error() string {
	if e.Err == nil {
		return e.Service + " ended although nobody had asked it to"
	}
	return e.Service + ": " + e.Err.Error()
}

func (e *ServiceError) Unwrap() error { return e.Err }

// Code is that of the reason, if it has one.
func (e *ServiceError) Code() string {
	var c interface{ Code() string }
	if errors.As(e.Err, &c) {
		return c.Code()
	}
	return "service_ended"
}

// SameSignal is how long after a signal another one is taken for the same: Ctrl-C reaches a process from its terminal and once more from whoever started it
// (go run, timeout, a shell script that passes it on). Nobody is impatient within a quarter of a second.
const SameSignal = 250 * time.Millisecond

// Run starts the services in order and returns when all have ended: nil after a signal or the end of ctx, else why the first of them ended. They are
// stopped in reverse, each after the one behind it has ended. The first SIGTERM or SIGINT stops gracefully; at the second, unless it is
// the same once more (SameSignal), Run returns at once, with services still running: the caller is about to end the process.
func Run(ctx context.Context, cfg Config, log *zap.Logger, reg *prometheus.Registry, services ...Service) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)
	h := &host{cfg: cfg, log: log.Named("host"), signals: signals}
	if cfg.Listen != "" {
		front, err := newFront(cfg, reg, h.ready)
		if err != nil {
			return err
		}
		h.log.Info("serving /metrics, /healthz and /readyz", zap.String("address", front.addr()))
		services = append([]Service{front}, services...)
	}
	return h.run(ctx, services)
}

type host struct {
	cfg     Config
	log     *zap.Logger
	signals <-chan os.Signal

	services  []*running
	stopping  atomic.Bool
	signalled time.Time // when the first signal was seen; zero: none was
}

// running is a service and how to stop it.
type running struct {
	Service
	cancel context.CancelFunc
	ended  chan struct{} // closed when Run has returned; err is set before
	err    error
}

// run is Run without what tests replace: the process's signals and its listener.
func (h *host) run(ctx context.Context, services []Service) error {
	ends := make(chan *running, len(services))
	// Not under ctx: its end stops the services one after the other, not all at once. The list stands before the first starts, because /readyz reads it.
	base := context.WithoutCancel(ctx)
	contexts := make([]context.Context, len(services))
	for i, s := range services {
		r := &running{Service: s, ended: make(chan struct{})}
		contexts[i], r.cancel = context.WithCancel(base)
		h.services = append(h.services, r)
	}
	for i, r := range h.services {
		began := make(chan struct{})
		go func() {
			close(began)
			r.err = r.Run(contexts[i])
			close(r.ended)
			ends <- r
		}()
		<-began
		h.log.Info("started", zap.String("service", r.Name()))
	}
	var cause error
	select {
	case <-ctx.Done():
		h.log.Info("stopping: the caller is done")
	case sig := <-h.signals:
		h.again()
		h.log.Info("stopping; a second signal ends the process at once", zap.Stringer("signal", sig))
	case r := <-ends:
		cause = &ServiceError{r.Name(), r.err}
		h.log.Error("stopping, because a service ended", zap.String("service", r.Name()), zap.Error(r.err))
	}
	return errors.Join(cause, h.stop())
}

// stop ends the services in reverse order.
func (h *host) stop() error {
	h.stopping.Store(true)
	limit := time.NewTimer(h.cfg.StopTimeout)
	defer limit.Stop()
	var errs []error
	for i := len(h.services) - 1; i >= 0; i-- {
		r := h.services[i]
		select {
		case <-r.ended: // it ended first, and that is what Run reports
			r.cancel()
			continue
		default:
		}
		r.cancel()
		if why := h.await(r, limit.C); why != "" {
			return errors.Join(append(errs, h.giveUp(i, why))...)
		}
		if r.err != nil && !errors.Is(r.err, context.Canceled) {
			errs = append(errs, &ServiceError{r.Name(), r.err})
		}
	}
	return errors.Join(errs...)
}

// await waits for a service that was told to stop, and says why it waits no longer.
func (h *host) await(r *running, limit <-chan time.Time) (why string) {
	began := time.Now()
	for {
		select {
		case <-r.ended:
			h.log.Info("stopped", zap.String("service", r.Name()), zap.Duration("took", time.Since(began)), zap.Error(r.err))
			return ""
		case <-limit:
			return fmt.Sprintf("not stopped within %v (host.stop_timeout)", h.cfg.StopTimeout)
		case sig := <-h.signals:
			// All signals count and not just the ones that come here: where the caller's context ends by the same signal, select may have
			// chosen the context, and the first signal is found only now.
			if h.again() {
				return "stopped at once by a second signal (" + sig.String() + ")"
			}
		}
	}
}

// again notes a signal and says whether it is another one than the first.
func (h *host) again() bool {
	if h.signalled.IsZero() {
		h.signalled = time.Now()
		return false
	}
	return time.Since(h.signalled) >= SameSignal
}

// giveUp tells the rest, from service i down, to stop and does not wait for it.
func (h *host) giveUp(i int, why string) error {
	e := &StopError{Why: why}
	for ; i >= 0; i-- {
		h.services[i].cancel()
		select {
		case <-h.services[i].ended:
		default:
			e.Still = append(e.Still, h.services[i].Name())
		}
	}
	h.log.Error("gave up stopping", zap.String("why", why), zap.Strings("still_running", e.Still))
	return e
}

// ready says why the process does not do its work yet, or no longer; nil: it does.
func (h *host) ready() error {
	if h.stopping.Load() {
		return errors.New("stopping")
	}
	var errs []error
	for _, r := range h.services {
		select {
		case <-r.ended:
			errs = append(errs, fmt.Errorf("%s: ended", r.Name()))
			continue
		default:
		}
		if s, ok := r.Service.(Readier); ok {
			if err := s.Ready(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", r.Name(), err))
			}
		}
	}
	return errors.Join(errs...)
}
