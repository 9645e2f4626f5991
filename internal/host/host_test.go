package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// diary notes what happens, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, ", ")
}

// part is a service that takes so long to stop.
type part struct {
	name   string
	diary  *diary
	stops  time.Duration
	ends   time.Duration // 0: not by itself
	err    error
	notYet error
}

func (p *part) Name() string { return p.name }
func (p *part) Ready() error { return p.notYet }
func (p *part) Run(ctx context.Context) error {
	p.diary.note(p.name + " starts")
	defer p.diary.note(p.name + " ends")
	var byItself <-chan time.Time
	if p.ends > 0 {
		byItself = time.After(p.ends)
	}
	select {
	case <-byItself:
		return p.err
	case <-ctx.Done():
	}
	<-time.After(p.stops)
	return p.err
}

type world struct {
	*host
	diary   *diary
	signals chan os.Signal
}

func newWorld() *world {
	w := &world{diary: &diary{}, signals: make(chan os.Signal, 2)}
	w.host = &host{cfg: DefaultConfig(), log: zap.NewNop(), signals: w.signals}
	return w
}

func (w *world) part(name string, stops time.Duration) *part {
	return &part{name: name, diary: w.diary, stops: stops}
}

// start runs the services and returns where the error will be.
func (w *world) start(ctx context.Context, services ...Service) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx, services) }()
	synctest.Wait()
	return ended
}

func TestServicesStartInOrderAndStopInReverseOneAfterTheOther(t *testing.T) {
	for name, stop := range map[string]func(*world, context.CancelFunc){
		"signal":  func(w *world, _ context.CancelFunc) { w.signals <- syscall.SIGTERM },
		"context": func(_ *world, cancel context.CancelFunc) { cancel() },
		// One signal reaches the host twice where the caller's context listens for it too: it is still one.
		"both": func(w *world, cancel context.CancelFunc) { cancel(); w.signals <- os.Interrupt },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := w.start(ctx, w.part("a", time.Second), w.part("b", 3*time.Second), w.part("c", 2*time.Second))
				began := time.Now()
				stop(w, cancel)
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if want := "a starts, b starts, c starts, c ends, b ends, a ends"; w.diary.text() != want {
					t.Errorf("%s\nwant %s", w.diary.text(), want)
				}
				if took := time.Since(began); took != 6*time.Second {
					t.Errorf("stopping took %v: they must stop one after the other, 6s", took)
				}
			})
		})
	}
}

func TestASecondSignalEndsTheWaitAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		ended := w.start(t.Context(), w.part("a", time.Second), w.part("slow", 10*time.Second), w.part("c", time.Second))
		began := time.Now()
		w.signals <- syscall.SIGTERM
		<-time.After(4 * time.Second)
		w.signals <- os.Interrupt
		err := <-ended
		var stop *StopError
		if !errors.As(err, &stop) || !slices.Equal(stop.Still, []string{"slow", "a"}) || time.Since(began) != 4*time.Second {
			t.Errorf("%v after %v, want slow and a still running after 4s", err, time.Since(began))
		}
		<-time.After(time.Minute) // let them end, for the bubble's sake
	})
}

// A terminal and the program that started us both pass Ctrl-C on: that is one signal, however often.
func TestASignalThatComesTwiceAtOnceIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		ended := w.start(t.Context(), w.part("a", time.Second), w.part("b", time.Second))
		began := time.Now()
		w.signals <- os.Interrupt
		<-time.After(SameSignal - time.Millisecond)
		w.signals <- os.Interrupt
		if err := <-ended; err != nil || time.Since(began) != 2*time.Second {
			t.Errorf("%v after %v: want the graceful stop, 2s", err, time.Since(began))
		}
	})
}

func TestAStopThatTakesTooLongIsGivenUpAndNamesWhoIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.cfg.StopTimeout = 5 * time.Second
		ctx, cancel := context.WithCancel(t.Context())
		ended := w.start(ctx, w.part("a", 0), w.part("b", time.Minute), w.part("c", 4*time.Second))
		began := time.Now()
		cancel()
		err := <-ended
		var stop *StopError
		if !errors.As(err, &stop) || !slices.Equal(stop.Still, []string{"b", "a"}) || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		<-time.After(time.Hour)
	})
}

func TestOneServiceThatEndsStopsTheOthersAndIsTheReason(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("disk full"), "b: disk full"},
		{nil, "b ended although nobody had asked it to"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			b := w.part("b", 0)
			b.ends, b.err = time.Minute, c.err
			ended := w.start(t.Context(), w.part("a", time.Second), b, w.part("c", time.Second))
			if err := <-ended; err == nil || err.Error() != c.want || !errors.Is(err, c.err) && c.err != nil {
				t.Errorf("%v, want %s", err, c.want)
			}
			if want := "a starts, b starts, c starts, b ends, c ends, a ends"; w.diary.text() != want {
				t.Errorf("%s\nwant %s", w.diary.text(), want)
			}
		})
	}
}

func TestAnErrorOnTheWayOutIsReportedAndACancelledContextIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.part("a", 0), w.part("b", 0)
		a.err, b.err = context.Canceled, errors.New("the last commit failed")
		ended := w.start(t.Context(), a, b)
		w.signals <- syscall.SIGTERM
		if err := <-ended; err == nil || err.Error() != "b: the last commit failed" {
			t.Error(err)
		}
	})
}

type refusedError struct{ error }

func (refusedError) Code() string { return "topics_wrong" }

func TestAServicesReasonKeepsItsCode(t *testing.T) {
	if c := (&ServiceError{"router", refusedError{errors.New("x")}}).Code(); c != "topics_wrong" {
		t.Error(c)
	}
	if c := (&ServiceError{"router", nil}).Code(); c != "service_ended" {
		t.Error(c)
	}
}

func TestReadyNamesEveryServiceThatIsNotAndTurnsFalseWithTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b, c := w.part("a", 0), w.part("b", time.Second), w.part("c", 0)
		a.notYet, c.notYet = errors.New("loading"), errors.New("no partition")
		ended := w.start(t.Context(), a, b, c)
		routes := routes(Config{}, prometheus.NewRegistry(), w.ready)
		get := func(path string) (int, string) {
			r := httptest.NewRecorder()
			routes.ServeHTTP(r, httptest.NewRequest("GET", path, nil))
			return r.Code, r.Body.String()
		}
		if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "a: loading") || !strings.Contains(body, "c: no partition") {
			t.Errorf("%d %s", code, body)
		}
		a.notYet, c.notYet = nil, nil
		if code, body := get("/readyz"); code != 200 {
			t.Errorf("%d %s", code, body)
		}
		w.signals <- syscall.SIGTERM
		synctest.Wait()
		if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "stopping") {
			t.Errorf("%d %s", code, body)
		}
		if code, _ := get("/healthz"); code != 200 {
			t.Errorf("/healthz: %d, but the process lives", code)
		}
		<-ended
	})
}

func TestTheListenerServesMetricsUntilEverythingElseHasStopped(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Listen = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reg := NewRegistry("1.2.3")
	f, err := newFront(cfg, reg, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	addr := f.addr()
	h := &host{cfg: cfg, log: zap.NewNop()}
	stopping, scraped := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx, []Service{f, waiter{stopping, scraped}}) }()
	cancel()
	<-stopping
	status, body := fetch(t, addr, "/metrics")
	if status != "HTTP/1.1 200 OK" || !strings.Contains(body, `hookferry_build_info{version="1.2.3"} 1`) || !strings.Contains(body, "go_goroutines") {
		t.Errorf("%s %s", status, body)
	}
	close(scraped)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// waiter says that it was told to stop, and stops when it is allowed to.
type waiter struct{ stopping, scraped chan struct{} }

func (waiter) Name() string { return "waiter" }
func (w waiter) Run(ctx context.Context) error {
	<-ctx.Done()
	close(w.stopping)
	<-w.scraped
	return nil
}

func fetch(t *testing.T, addr, path string) (status, body string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET "+path+" HTTP/1.0\r\n\r\n")
	all, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	status, body, _ = strings.Cut(string(all), "\r\n")
	return strings.Replace(status, "HTTP/1.0", "HTTP/1.1", 1), body
}

func TestAnAddressInUseIsExplained(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := DefaultConfig()
	cfg.Listen = l.Addr().String()
	err = Run(t.Context(), cfg, zap.NewNop(), NewRegistry("x"))
	var coded interface{ Code() string }
	if !errors.As(err, &coded) || coded.Code() != "listen_failed" || !strings.Contains(err.Error(), "host.listen") {
		t.Error(err)
	}
}

func TestEveryMistakeOfTheConfigurationIsNamed(t *testing.T) {
	err := Config{Listen: "nowhere", StopTimeout: time.Millisecond}.Validate()
	for _, field := range []string{"listen:", "stop_timeout:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
	err = LogConfig{Format: "xml", Level: "loud"}.Validate()
	for _, field := range []string{"format:", "level:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
	if err := errors.Join(DefaultConfig().Validate(), DefaultLogConfig().Validate(), Config{StopTimeout: time.Minute}.Validate()); err != nil {
		t.Error(err)
	}
}

func TestTheLogIsWhatItsConfigurationSays(t *testing.T) {
	var b bytes.Buffer
	log := NewLogger(LogConfig{Format: "json", Level: "warn"}, &b)
	log.Info("hidden")
	log.Warn("seen", zap.Duration("took", time.Second))
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["msg"] != "seen" || line["took"] != "1s" || line["level"] != "warn" {
		t.Errorf("%v %s", err, b.String())
	}
	b.Reset()
	NewLogger(LogConfig{Format: "console", Level: "debug"}, &b).Debug("hello")
	if !strings.Contains(b.String(), "DEBUG") || !strings.Contains(b.String(), "hello") {
		t.Error(b.String())
	}
}

// Profiles are there for whoever asked for them in the configuration, and for nobody else.
func TestProfilesAreServedOnlyOnRequest(t *testing.T) {
	for _, on := range []bool{false, true} {
		r := httptest.NewRecorder()
		routes(Config{Profile: on}, prometheus.NewRegistry(), func() error { return nil }).ServeHTTP(r, httptest.NewRequest("GET", "/debug/pprof/", nil))
		if got := r.Code == 200; got != on {
			t.Errorf("profile %v: status %d", on, r.Code)
		}
	}
}
