package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// schemasCommand shows the catalogue of events and brings their schemas to a registry.
func schemasCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "schemas",
		Short: "The 26 event types, and our own, and their Avro schemas: list, show, register, check",
		Long: "Events are Avro, one schema per entity. Without a schema registry nothing needs to be registered: events carry the fingerprint of their schema.\n" +
			"With one (kafka.registry in the configuration), register puts the schemas of this release there, and check asks before whether they may follow what is there.",
		Example: "  hookferry schemas show booking > booking_event.avsc",
	}
	c.AddCommand(schemasListCommand(a), schemasShowCommand(a), schemasRegisterCommand(a), schemasCheckCommand(a))
	return c
}

type schemaRow struct {
	Type        string `json:"type"`
	Entity      string `json:"entity"`
	GroupID     int    `json:"group_id"`
	TypeID      int    `json:"type_id"`
	V1Text      string `json:"v1_text"`
	Record      string `json:"record"`
	Data        string `json:"data"`
	Topic       string `json:"topic"`
	Fingerprint string `json:"fingerprint"` // CRC-64-AVRO, as it stands on the wire
}

func schemasListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "The event types, their ids, records and topics",
		Example: "  hookferry schemas list",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.cfg()
			if err != nil {
				return err
			}
			var rows []schemaRow
			var cells [][]string
			for _, et := range schemas.AllEventTypes() {
				r := schemaRow{et.Name, et.Entity, et.GroupID, et.TypeID, et.V1Text, et.Record, et.DataRecord, cfg.Kafka.TopicPrefix + "events." + et.Entity, fingerprint(et.Entity)}
				rows = append(rows, r)
				cells = append(cells, []string{r.Type, strconv.Itoa(r.GroupID), strconv.Itoa(r.TypeID), r.V1Text, r.Record, r.Fingerprint, r.Topic})
			}
			if a.json {
				return a.printJSON(rows)
			}
			a.printTable([]string{"TYPE", "GROUP", "ID", "V1 TEXT", "RECORD", "FINGERPRINT", "TOPIC"}, cells)
			return nil
		},
	}
}

func fingerprint(entity string) string {
	fp := schemas.EventSchema(entity).Fingerprint()
	return hex.EncodeToString(fp[:])
}

func schemasShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show ENTITY|TYPE|RECORD|FINGERPRINT",
		Short: "A schema as Avro JSON, self-contained",
		Long: "Show prints the schema of an entity's events (booking), of a type (booking.creation), of a record (BookingEvent), or the one with a fingerprint, as\n" +
			"hexadecimal in the order of the wire. Any Avro library can read it.",
		Example: "  hookferry schemas show booking > booking_event.avsc",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := schemaNamed(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, strings.TrimRight(text, "\n"))
			return err
		},
	}
}

func schemaNamed(name string) (string, error) {
	for _, et := range schemas.AllEventTypes() {
		if name == et.Entity || name == et.Name || name == et.Record {
			return schemas.EventSchemaText(et.Entity), nil
		}
	}
	if fp, err := hex.DecodeString(name); err == nil && len(fp) == 8 {
		if s, ok := schemas.CompiledIn([8]byte(fp)); ok {
			return s.Text(), nil
		}
	}
	return "", &refusal{"unknown_schema", fmt.Sprintf("%q is no entity, event type, record or fingerprint of this release; run: hookferry schemas list", name)}
}

// registered is a line of register and of check.
type registered struct {
	Subject    string   `json:"subject"`
	Entity     string   `json:"entity"`
	ID         uint32   `json:"id,omitempty"`
	Compatible *bool    `json:"compatible,omitempty"`
	Why        []string `json:"why,omitempty"`
}

// forSubjects calls one for every entity that was asked for, all of them if none was.
func forSubjects(ctx context.Context, a *app, entities []string, one func(*kafka.Registry, *registered, string) error) ([]registered, error) {
	all := schemas.AllEntities()
	if len(entities) == 0 {
		entities = all
	}
	for _, e := range entities {
		if !slices.Contains(all, e) {
			return nil, usagef("%q is no entity; there are %s", e, strings.Join(all, ", "))
		}
	}
	client, err := a.openKafka(ctx)
	if err != nil {
		return nil, err
	}
	r := client.Registry()
	if r == nil {
		return nil, &refusal{"no_registry", "no schema registry is configured, and none is needed: events then carry their schema's fingerprint. To use one, set kafka.registry.url"}
	}
	bar := a.progress("schemas", int64(len(entities)))
	defer bar.Done()
	var out []registered
	for _, e := range entities {
		row := registered{Subject: client.Topics().Events[e] + "-value", Entity: e}
		if err := one(r, &row, schemas.EventSchemaText(e)); err != nil {
			return out, fmt.Errorf("%s: %w", row.Subject, err)
		}
		out = append(out, row)
		bar.Add(1)
	}
	return out, nil
}

func schemasRegisterCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "register [ENTITY...]",
		Short:   "Register the event schemas with the schema registry",
		Long:    "Register makes sure that each subject (TOPIC-value) has this release's schema, and prints its id. What is there already keeps its id.",
		Example: "  hookferry schemas register booking customer",
		RunE: func(c *cobra.Command, entities []string) error {
			rows, err := forSubjects(c.Context(), a, entities, func(r *kafka.Registry, row *registered, text string) (err error) {
				row.ID, err = r.Register(c.Context(), row.Subject, text)
				return err
			})
			if a.json {
				return errors.Join(a.printJSON(slices.Clip(append([]registered{}, rows...))), err)
			}
			var cells [][]string
			for _, r := range rows {
				cells = append(cells, []string{r.Subject, strconv.FormatUint(uint64(r.ID), 10)})
			}
			if len(cells) > 0 {
				a.printTable([]string{"SUBJECT", "ID"}, cells)
			}
			return err
		},
	}
}

func schemasCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "check [ENTITY...]",
		Short:   "Ask the schema registry whether the event schemas may follow what it has",
		Long:    "Check changes nothing. The exit code is 1 if any schema would be refused.",
		Example: "  hookferry schemas check",
		RunE: func(c *cobra.Command, entities []string) error {
			refused := 0
			rows, err := forSubjects(c.Context(), a, entities, func(r *kafka.Registry, row *registered, text string) error {
				ok, why, err := r.CheckCompatible(c.Context(), row.Subject, text)
				if err != nil {
					return err
				}
				if !ok {
					refused++
				}
				row.Compatible, row.Why = &ok, why
				return nil
			})
			if refused > 0 {
				err = errors.Join(err, &refusal{"schema_incompatible", fmt.Sprintf("%d of %d schemas may not follow what the registry has", refused, len(rows))})
			}
			if a.json {
				return errors.Join(a.printJSON(append([]registered{}, rows...)), err)
			}
			var cells [][]string
			for _, r := range rows {
				says := "compatible"
				if !*r.Compatible {
					says = "incompatible: " + strings.Join(r.Why, "; ")
				}
				cells = append(cells, []string{r.Subject, says})
			}
			if len(cells) > 0 {
				a.printTable([]string{"SUBJECT", "THE REGISTRY SAYS"}, cells)
			}
			return err
		},
	}
}
