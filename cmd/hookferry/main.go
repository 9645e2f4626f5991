// Command hookferry runs and operates the pipeline that turns a booking platform's change events into signed webhooks.
//
//	main.go     the table of commands and how an error ends the process
//	app.go      what every command shares: configuration, Kafka, keys, subscriptions, output
//	config.go   the one configuration file: a section per room, environment overrides, every mistake at once
//	run.go      router, deliverer, all: the services on your Kafka and Redis; recent.go has the third
//	dev.go      the same services in a world that lives in the process; demo.go: the same world, with an end and a verdict
//
// The other files are a command each. This package assembles and decides nothing: a decision that is worth a test belongs to a room below.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/host"
)

// commands is the table: one row a command, in the order of the help.
var commands = []struct {
	group string
	make  func(*app) *cobra.Command
}{
	{"start", demoCommand},
	{"start", devCommand},
	{"services", routerCommand},
	{"services", delivererCommand},
	{"services", allCommand},
	{"operate", configCommand},
	{"operate", topicsCommand},
	{"operate", schemasCommand},
	{"operate", subscriptionsCommand},
	{"operate", attemptsCommand},
	{"operate", lagCommand},
	{"operate", deadCommand},
	{"operate", undecodableCommand},
	{"operate", replayCommand},
	{"operate", verifyCommand},
	{"operate", recentCommand},
	{"tools", publishCommand},
	{"tools", listenCommand},
	{"tools", checkURLCommand},
	{"tools", versionCommand},
}

var groups = []*cobra.Group{
	{ID: "start", Title: "To try it, with nothing installed:"},
	{ID: "services", Title: "Services:"},
	{ID: "operate", Title: "To operate them:"},
	{ID: "tools", Title: "Tools:"},
}

// Exit codes. They are an interface: scripts compare them.
const (
	exitOK     = 0
	exitFailed = 1 // it was tried and failed, or was refused
	exitUsage  = 2 // the command line is wrong; nothing was tried
)

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, errOut: os.Stderr}
	os.Exit(a.main(os.Args[1:]))
}

// main runs one command line and returns the exit code.
func (a *app) main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Who interrupts twice is impatient: without a handler the second signal ends the process, but not the first one that comes once more. Services install
	// their own (internal/host).
	context.AfterFunc(ctx, func() { time.AfterFunc(host.SameSignal, stop) })
	defer a.close()

	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitFailed
	if !a.started || errors.As(err, new(*usageError)) {
		code = exitUsage
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	printError(a.errOut, err, code)
	return code
}

// root builds the command tree. Each of its RunE notes that the command line was understood, so that main can tell a usage error from a failure.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "hookferry",
		Short: "Change events in Kafka, out as signed webhooks",
		Long: "Hookferry routes Avro change events from Kafka to the webhooks that want them: at least once, signed, retried for days, never in silence.\n\n" +
			"Start with: hookferry demo",
		SilenceUsage: true, SilenceErrors: true,
		Version: version(),
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	root.AddGroup(groups...)
	root.CompletionOptions.HiddenDefaultCmd = true
	flags := root.PersistentFlags()
	flags.StringVar(&a.configPath, "config", os.Getenv(envConfig), "configuration file (default: $"+envConfig+")")
	flags.BoolVar(&a.json, "json", false, "print JSON, for machines")
	for _, row := range commands {
		c := row.make(a)
		c.GroupID = row.group
		root.AddCommand(c)
	}
	a.noteStart(root)
	return root
}

func (a *app) noteStart(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			a.started = true
			return run(c, args)
		}
	} else if c.HasSubCommands() && c.HasParent() { // "hookferry dead lsit" is a mistake, not a question for help
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				a.started = true
				return c.Help()
			}
			return usagef("unknown command %q for %q", args[0], c.CommandPath())
		}
	}
	for _, sub := range c.Commands() {
		a.noteStart(sub)
	}
}

// coded is what an error has that a user may meet: a name that stays when its sentence is improved.
type coded interface {
	error
	Code() string
}

// usageError says that the command line makes no sense.
type usageError struct{ sentence string }

func (e *usageError) Error() string { return e.sentence }
func (e *usageError) Code() string  { return "usage" }

// usagef is for what flags cannot check by themselves.
func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// refusal is an error of this package that a user meets.
type refusal struct{ code, sentence string }

func (e *refusal) Error() string { return e.sentence }
func (e *refusal) Code() string  { return e.code }

var errInterrupted = &refusal{"interrupted", "stopped by a signal before it was done"}

// printError prints a line for every mistake that is joined in err: `error: CODE: sentence`. A sentence may hold what a stranger sent.
func printError(w io.Writer, err error, exit int) {
	for _, e := range leaves(err) {
		code := "failed"
		var c coded
		switch {
		case errors.As(e, &c):
			code = c.Code()
		case errors.Is(e, context.DeadlineExceeded):
			code = "timeout"
		case exit == exitUsage:
			code = "usage"
		}
		lines := strings.Split(strings.TrimSpace(e.Error()), "\n")
		for i, line := range lines {
			lines[i] = safeText(line)
		}
		fmt.Fprintf(w, "error: %s: %s\n", code, strings.Join(lines, "\n  "))
	}
	if exit == exitUsage {
		fmt.Fprintln(w, "(hookferry --help, or --help behind the command, shows what there is)")
	}
}

// leaves takes joined errors apart. What was wrapped around a join stands before each of its parts.
func leaves(err error) []error {
	if _, ok := err.(coded); ok { // it speaks for itself, whatever it holds
		return []error{err}
	}
	switch wrapped := err.(type) {
	case interface{ Unwrap() []error }:
		var out []error
		for _, e := range wrapped.Unwrap() {
			out = append(out, leaves(e)...)
		}
		return out
	case interface{ Unwrap() error }:
		inner := wrapped.Unwrap()
		if inner == nil {
			break
		}
		parts := leaves(inner)
		prefix, found := strings.CutSuffix(err.Error(), inner.Error())
		if len(parts) == 1 || !found {
			break
		}
		for i, e := range parts {
			parts[i] = fmt.Errorf("%s%w", prefix, e)
		}
		return parts
	}
	return []error{err}
}
