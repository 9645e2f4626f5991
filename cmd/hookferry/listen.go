package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/sandbox"
)

func listenCommand(a *app) *cobra.Command {
	var addr, fail string
	var secrets, secretFiles []string
	var times int
	var rate float64
	var bodies bool
	c := &cobra.Command{
		Use:   "listen",
		Short: "Receive webhooks, verify their signatures, print what comes, fail when told to",
		Long: `Receive webhooks on this machine, to see what a receiver sees. Without --fail every request is answered as its path says: /ok with 200 (so does every
other path that says nothing), /status/503, /delay/100ms, /hang, /reset, /drip, /flap/2 (the first two tries of each webhook-id fail), /early, /redirect.

Plain http: put your own TLS in front, or allow http and loopback in the section egress of a test deployment.`,
		Example: "  hookferry listen --addr 127.0.0.1:8088 --secret whsec_... --fail 503 --times 2",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			script, err := failScript(fail, times, rate, c.Flags().Changed("times"), c.Flags().Changed("rate"))
			if err != nil {
				return err
			}
			for _, file := range secretFiles {
				text, err := os.ReadFile(file)
				if err != nil {
					return &refusal{"secret_invalid", err.Error()}
				}
				secrets = append(secrets, strings.TrimSpace(string(text)))
			}
			r, err := sandbox.StartReceiver(sandbox.ReceiverConfig{
				Addr: addr, Forget: true, Script: script,
				Notify: func(got *sandbox.Received) { a.printReceived(got, bodies) },
			})
			if err != nil {
				return &refusal{"listen_failed", err.Error()}
			}
			defer r.Close()
			for _, s := range secrets {
				if err := r.Trust("", s); err != nil {
					return &refusal{"secret_invalid", err.Error()}
				}
			}
			if !a.json {
				fmt.Fprintf(a.out, "listening on %s; Ctrl-C ends it\n", r.URL("/ok"))
			}
			<-c.Context().Done()
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVar(&addr, "addr", "127.0.0.1:8088", "host:port to listen on")
	flags.StringArrayVar(&secrets, "secret", nil, "signing secret (whsec_...) to verify with; may be repeated")
	flags.StringArrayVar(&secretFiles, "secret-file", nil, "file with a signing secret, so that it does not show in the list of processes; may be repeated")
	flags.StringVar(&fail, "fail", "", "how to fail: a status (503, or status/429/30 with Retry-After), delay/5s, hang, reset, drip, early, redirect, disable, abort")
	flags.IntVar(&times, "times", 0, "fail only the first tries of each webhook-id")
	flags.Float64Var(&rate, "rate", 1, "fail this share of the requests, 0 to 1")
	flags.BoolVar(&bodies, "bodies", false, "print the bodies too")
	return c
}

// failing are the behaviours of a receiver that --fail may name.
var failing = []string{"status", "delay", "hang", "reset", "drip", "early", "redirect", "disable", "abort"}

// failScript turns the flags into a receiver's script. Requests that are not to fail are answered as their path says, or with 200 if it says nothing.
func failScript(fail string, times int, rate float64, timesGiven, rateGiven bool) (func(*sandbox.Received) string, error) {
	switch {
	case fail == "" && (timesGiven || rateGiven):
		return nil, usagef("--times and --rate say how often to fail; --fail says how")
	case !(rate >= 0 && rate <= 1): // nor no number at all
		return nil, usagef("--rate %v is not within 0 and 1", rate)
	case timesGiven && times < 1:
		return nil, usagef("--times %d: at least 1, else nothing fails", times)
	}
	how := fail
	if _, err := strconv.Atoi(fail); err == nil {
		how = "status/" + fail
	}
	name, _, _ := strings.Cut(how, "/")
	switch {
	case fail == "":
	case !slices.Contains(failing, name):
		return nil, usagef("--fail %q is neither a status nor one of %s", fail, strings.Join(failing, ", "))
	case !sandbox.Understands(how):
		return nil, usagef("--fail %q: it is 503 or status/503, with a status from 200 to 999, status/429/30 with seconds to wait, delay/5s, or one of "+
			"%s with nothing behind it", fail, strings.Join(failing[2:], ", "))
	}
	var mu sync.Mutex
	tries := map[string]int{}
	return func(got *sandbox.Received) string {
		due := fail != ""
		if timesGiven { // else nothing is remembered: a receiver may run for long
			mu.Lock()
			tries[got.WebhookID]++
			due = tries[got.WebhookID] <= times
			mu.Unlock()
		}
		if due && rand.Float64() < rate {
			return "/" + how
		}
		if sandbox.Behaves(got.Path) {
			return "" // as the path says
		}
		return "/ok"
	}, nil
}

// received is one request, for machines.
type received struct {
	At        time.Time       `json:"at"`
	Path      string          `json:"path"`
	WebhookID string          `json:"webhook_id"`
	Attempt   int             `json:"attempt"`
	Type      string          `json:"type,omitempty"`
	Bytes     int             `json:"bytes"`
	Signature string          `json:"signature"` // valid, unchecked, or why not
	Answered  int             `json:"answered"`  // 0: nothing
	Body      json.RawMessage `json:"body,omitempty"`
}

// printReceived prints a line for a request.
func (a *app) printReceived(got *sandbox.Received, bodies bool) {
	v := received{At: got.At, Path: got.Path, WebhookID: got.WebhookID, Attempt: got.Attempt, Type: typeOf(got.Body), Bytes: len(got.Body),
		Signature: verdictOn(got.Signature), Answered: got.Status}
	if bodies && json.Valid(got.Body) {
		v.Body = got.Body
	}
	if a.json {
		a.printJSONLine(v)
		return
	}
	answered := "no answer"
	if v.Answered != 0 {
		answered = strconv.Itoa(v.Answered)
	}
	line := fmt.Sprintf("%s  %-22s %s  try %d  %d bytes  signature %s  answered %s  %s", v.At.Format("15:04:05.000"), v.Type, v.WebhookID, v.Attempt, v.Bytes,
		v.Signature, answered, v.Path)
	if bodies {
		line += "\n" + string(got.Body)
	}
	fmt.Fprintln(a.out, strings.Map(printable, line))
}

func verdictOn(err error) string {
	switch {
	case err == nil:
		return "valid"
	case errors.Is(err, sandbox.ErrNotChecked):
		return "unchecked"
	}
	return "INVALID: " + err.Error()
}

// typeOf finds the event type in a body of any format; empty: none there.
func typeOf(body []byte) string {
	var any struct {
		Type    string `json:"type"`
		Classic string `json:"eventNotificationTypeV2"`
	}
	json.Unmarshal(body, &any)
	if any.Type != "" {
		return any.Type
	}
	return any.Classic
}
