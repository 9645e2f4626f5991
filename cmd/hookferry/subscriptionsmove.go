package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// moved is one line of an export. Its secrets are as they lie on the topic: encrypted.
type moved struct {
	ID      string `json:"id"`
	Company string `json:"company"`
	Name    string `json:"name"`
	Record  string `json:"record"` // base64 of the Avro record
}

func subscriptionsExportCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "All subscriptions as lines of JSON, for import into another topic set",
		Long: "Prints every subscription that is not deleted, one a line. Secrets and header values stay encrypted: who imports them needs the same keys.\n" +
			"docs/operations.md says how to move to a topic set with more partitions.",
		Example: "  hookferry subscriptions export > subscriptions.jsonl",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := a.table(c.Context())
			if err != nil {
				return err
			}
			var list []*subscriptions.Live
			for l := range t.All() {
				if l.State != schemas.StateDeleted {
					list = append(list, l)
				}
			}
			slices.SortFunc(list, func(x, y *subscriptions.Live) int { return int(x.CreatedAt - y.CreatedAt) })
			for _, l := range list {
				record := schemas.AppendSubscription(nil, &l.Subscription)
				if err := a.printJSONLine(moved{l.ID, l.Company, l.Name, base64.StdEncoding.EncodeToString(record)}); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func subscriptionsImportCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE|-",
		Short: "Take over what export wrote; what is there already stays as it is",
		Long: "Reads lines that `subscriptions export` wrote, from a file or standard input (-), and makes the same subscriptions in this topic set: same ids, secrets,\n" +
			"state and spans. The keys must be the same. It may be run again: what is there already is passed over.",
		Example: "  hookferry subscriptions export | HOOKFERRY_KAFKA_TOPIC_PREFIX=hookferry2. hookferry subscriptions import -",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			in := a.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return &refusal{"file", err.Error()}
				}
				defer f.Close()
				in = f
			}
			list, err := readMoved(in)
			if err != nil {
				return err
			}
			w, _, err := a.writer(c.Context())
			if err != nil {
				return err
			}
			bar := a.progress("importing", int64(len(list)))
			added := 0
			var failed []error
			for i := range list {
				switch is, err := w.Import(c.Context(), list[i]); {
				case err != nil:
					failed = append(failed, fmt.Errorf("%s: %w", list[i].ID, err))
				case is:
					added++
				}
				bar.Add(1)
				if c.Context().Err() != nil {
					break
				}
			}
			bar.Done()
			if a.json {
				err = a.printJSON(map[string]int{"read": len(list), "added": added, "failed": len(failed)})
			} else {
				_, err = fmt.Fprintf(a.out, "%d read, %d added, %d failed\n", len(list), added, len(failed))
			}
			return errors.Join(errors.Join(failed...), err)
		},
	}
}

// readMoved reads an export whole before anything of it is written: a file that is cut short imports nothing.
func readMoved(in io.Reader) ([]schemas.Subscription, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 4<<20)
	var out []schemas.Subscription
	for n := 1; lines.Scan(); n++ {
		bad := func(err error) error {
			return &refusal{"export_invalid", fmt.Sprintf("line %d is not one that `subscriptions export` wrote: %v", n, err)}
		}
		var m moved
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return nil, bad(err)
		}
		record, err := base64.StdEncoding.DecodeString(m.Record)
		if err != nil {
			return nil, bad(err)
		}
		var s schemas.Subscription
		if err := schemas.DecodeSubscription(record, &s); err != nil {
			return nil, bad(err)
		}
		if s.ID != m.ID {
			return nil, bad(fmt.Errorf("it names %q and holds %q", m.ID, s.ID))
		}
		out = append(out, s)
	}
	return out, lines.Err()
}

func subscriptionsResealCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reseal",
		Short: "Encrypt all secrets anew with the first key, so that an old key can go",
		Long: "Encrypts what lies on the topic under another key than the first of secrets.key_file (or HOOKFERRY_SECRET_KEYS) with the first one. The secrets stay the same,\n" +
			"and receivers notice nothing. Every process must have the new key before this is run: docs/operations.md has the order of steps.",
		Example: "  hookferry subscriptions reseal",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			w, t, err := a.writer(c.Context())
			if err != nil {
				return err
			}
			bar := a.progress("resealing", int64(t.Len()))
			resealed := 0
			var failed []error
			for l := range t.All() {
				if l.State == schemas.StateDeleted {
					continue
				}
				is, err := w.Reseal(c.Context(), l.ID)
				if err != nil {
					failed = append(failed, fmt.Errorf("%s: %w", l.ID, err))
				} else if is {
					resealed++
				}
				bar.Add(1)
				if c.Context().Err() != nil {
					break
				}
			}
			bar.Done()
			return errors.Join(errors.Join(failed...), t.CatchUp(c.Context()), a.showKeys(resealed, len(failed), subscriptions.KeysInUse(t)))
		},
	}
}

func (a *app) showKeys(resealed, failed int, inUse map[string]int) error {
	if a.json {
		return a.printJSON(map[string]any{"resealed": resealed, "failed": failed, "keys": inUse})
	}
	fmt.Fprintf(a.out, "%d resealed, %d failed\n", resealed, failed)
	var rows [][]string
	for _, id := range slices.Sorted(maps.Keys(inUse)) {
		rows = append(rows, []string{id, strconv.Itoa(inUse[id])})
	}
	a.printTable([]string{"KEY", "SUBSCRIPTIONS"}, rows)
	return nil
}
