package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
	"golang.org/x/term"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/host"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/producer"
)

// app is what every command shares. Each part is made when first asked for, and close ends them in reverse. Not safe for concurrent use: a command asks
// for what it needs before it starts goroutines.
type app struct {
	configPath string
	json       bool // print for machines
	started    bool // the command line was understood
	in         io.Reader
	out        io.Writer
	errOut     io.Writer

	config  *Config
	client  *kafka.Client
	reached bool // client has had an answer
	keys    *secrets.Keyring
	subs    *subscriptions.Table
	log     *zap.Logger
	closers []func()
}

// onClose says what to do at the end, before what was said earlier.
func (a *app) onClose(f func()) { a.closers = append(a.closers, f) }

func (a *app) close() {
	for len(a.closers) > 0 {
		last := a.closers[len(a.closers)-1]
		a.closers = a.closers[:len(a.closers)-1]
		last()
	}
}

// cfg is the configuration: defaults, then the file, then the environment; valid, or the error names every mistake.
func (a *app) cfg() (Config, error) {
	if a.config == nil {
		c, err := loadConfig(a.configPath, os.Environ())
		if err != nil {
			return Config{}, err
		}
		a.config = &c
	}
	return *a.config, nil
}

// logger is for what happens beside a command's own output; it writes to standard error.
func (a *app) logger() (*zap.Logger, error) {
	if a.log == nil {
		cfg, err := a.cfg()
		if err != nil {
			return nil, err
		}
		a.log = host.NewLogger(cfg.Log, a.errOut)
	}
	return a.log, nil
}

// quiet is the logger of commands that are no service: only what went wrong, so that it does not mix with what was asked for.
func (a *app) quiet() (*zap.Logger, error) {
	log, err := a.logger()
	if err != nil {
		return nil, err
	}
	return log.WithOptions(zap.IncreaseLevel(zap.WarnLevel)), nil
}

// kafka is the access to a cluster that answers. What a command asks of it is then tried for as long as it takes: a broker may be restarting. But one that
// never answered is most likely a mistake in the configuration, and nobody should have to wait for ever to learn that.
func (a *app) kafka(ctx context.Context) (*kafka.Client, error) {
	c, err := a.openKafka(ctx)
	if err != nil || a.reached {
		return c, err
	}
	done := a.waiting("waiting for Kafka's first answer", answerPatience)
	err = reachKafka(ctx, c)
	done()
	if err != nil {
		return nil, err
	}
	a.reached = true
	return c, nil
}

// answerPatience is how long a command waits for Kafka's first answer: longer than a broker takes to hand over to another.
const answerPatience = 10 * time.Second

// reachKafka returns when a broker has answered.
func reachKafka(ctx context.Context, c *kafka.Client) error {
	limit, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	again := time.NewTicker(250 * time.Millisecond)
	defer again.Stop()
	for last := error(nil); ; {
		_, err := c.ClusterID(limit)
		if err == nil {
			return nil
		}
		if last == nil || limit.Err() == nil { // what was wrong before says more than that the time is over
			last = err
		}
		select {
		case <-again.C:
		case <-limit.Done():
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case limit.Err() != nil:
			return kafkaUnreachable(c.Config().Brokers, last)
		}
	}
}

// kafkaUnreachable is for a Kafka that has not answered in the time that it was given.
func kafkaUnreachable(brokers []string, err error) error {
	return &refusal{"kafka_unreachable", fmt.Sprintf("Kafka at %s: %v (is kafka.brokers right, and TLS or SASL as the brokers want it?)",
		strings.Join(brokers, ", "), err)}
}

// openKafka is the access to the cluster for who needs only what is configured, such as the registry. No round trip has been made when it returns.
func (a *app) openKafka(ctx context.Context) (*kafka.Client, error) {
	if a.client == nil {
		cfg, err := a.cfg()
		if err != nil {
			return nil, err
		}
		log, err := a.quiet()
		if err != nil {
			return nil, err
		}
		c, err := kafka.Open(cfg.Kafka, kafka.Options{Log: log, ClientID: "hookferry-command"})
		if err != nil {
			return nil, err
		}
		a.client = c
		a.onClose(c.Close)
	}
	return a.client, ctx.Err()
}

// keyring holds the keys that seal the subscriptions' secrets.
func (a *app) keyring() (*secrets.Keyring, error) {
	if a.keys == nil {
		cfg, err := a.cfg()
		if err != nil {
			return nil, err
		}
		if a.keys, err = secrets.Load(cfg.Secrets); err != nil {
			return nil, err
		}
	}
	return a.keys, nil
}

// table is the live table of subscriptions, loaded. It follows its topic until close. Who wants to open secrets asks for the keyring first: without one the
// table shows everything else, so that whoever only looks needs no keys.
func (a *app) table(ctx context.Context) (*subscriptions.Table, error) {
	if a.subs != nil {
		return a.subs, nil
	}
	client, err := a.kafka(ctx)
	if err != nil {
		return nil, err
	}
	log, err := a.quiet()
	if err != nil {
		return nil, err
	}
	t := subscriptions.NewTable(client, a.keys, subscriptions.Options{Log: log})
	bar := a.progress("loading the subscriptions", 0)
	done := bar.every(func() { bar.Set(int64(t.Len())) })
	defer done()
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- t.Run(running) }()
	select {
	case <-t.Loaded():
		a.onClose(func() { cancel(); <-ended })
		a.subs = t
		return t, nil
	case err = <-ended:
		cancel()
		if err == nil {
			err = &refusal{"subscriptions_ended", "the table of subscriptions ended before it was loaded"}
		}
	case <-ctx.Done():
		cancel()
		<-ended
		err = fmt.Errorf("the subscriptions are not loaded (is Kafka reachable at %s?): %w", strings.Join(client.Config().Brokers, ", "), ctx.Err())
	}
	return nil, err
}

// policy says which addresses deliveries may reach.
func (a *app) policy() (*egress.Policy, error) {
	cfg, err := a.cfg()
	if err != nil {
		return nil, err
	}
	return egress.NewPolicy(cfg.Egress)
}

// printTable prints rows under a header, in columns.
func (a *app) printTable(header []string, rows [][]string) {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, row := range rows {
		for i, cell := range row { // a cell may hold what a stranger sent: no control character reaches the terminal
			row[i] = safeText(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
}

// safeText is text of strangers without what would move a terminal, on one line.
func safeText(s string) string { return strings.Map(printable, s) }

func printable(r rune) rune {
	switch {
	case r == '\t' || r == '\n':
		return ' '
	case moves(r):
		return '\uFFFD'
	}
	return r
}

// moves says that a terminal does not show this character but obeys it: controls, and those that turn the direction of text.
func moves(r rune) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// printJSON prints one document, for machines.
func (a *app) printJSON(v any) error {
	return a.encodeJSON(v, "  ")
}

// printJSONLine prints one of a stream of documents, one a line.
func (a *app) printJSONLine(v any) error {
	return a.encodeJSON(v, "")
}

func (a *app) encodeJSON(v any, indent string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := a.out.Write(safeJSON(b.Bytes()))
	return err
}

// safeJSON escapes what encoding/json leaves as it is and a terminal would obey; the document says the same as before. Such characters stand only within
// strings of a document, and so do bytes that are no UTF-8, which come from bodies that are passed on as they are.
func safeJSON(doc []byte) []byte {
	out := make([]byte, 0, len(doc))
	for len(doc) > 0 {
		r, n := utf8.DecodeRune(doc)
		switch {
		case r == utf8.RuneError && n == 1:
			out = append(out, `\ufffd`...)
		case r >= ' ' && moves(r):
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = append(out, doc[:n]...)
		}
		doc = doc[n:]
	}
	return out
}

// interactive says that a person sits in front: questions may be asked.
func (a *app) interactive() bool { return isTerminal(a.in) && isTerminal(a.errOut) }

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// registryWait is how long a command tries to register its schemas. A service waits for its registry for as long as it takes; whoever gave a command does not.
var registryWait = 15 * time.Second

// producerOver makes a producer for a command.
func producerOver(ctx context.Context, client *kafka.Client, cfg producer.Config) (*producer.Producer, error) {
	bounded, cancel := context.WithTimeout(ctx, registryWait)
	defer cancel()
	p, err := producer.Over(bounded, client, cfg)
	if ctx.Err() == nil && (errors.Is(err, kafka.ErrRegistryDown) || errors.Is(err, context.DeadlineExceeded)) {
		return nil, &refusal{"registry_unreachable", fmt.Sprintf("nothing was published: %v (is kafka.registry.url right?)", err)}
	}
	return p, err
}
