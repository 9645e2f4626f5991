package main

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

func configCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Short:   "Show or check the configuration",
		Example: "  hookferry config print --config hookferry.yml",
	}
	c.AddCommand(&cobra.Command{
		Use:   "print",
		Short: "Print what is in force: defaults, file and environment together, secrets hidden",
		Long: "Print what is in force: defaults, then the file, then the environment (kafka.sasl.user is overridden by HOOKFERRY_KAFKA_SASL_USER).\n" +
			"What is printed is a valid file, but for hidden secrets.",
		Example: "  hookferry config print --config hookferry.yml\n  HOOKFERRY_KAFKA_BROKERS=a:9092,b:9092 hookferry config print",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.cfg()
			if err != nil {
				return err
			}
			t := tree(reflect.ValueOf(cfg), "")
			if a.json {
				return a.printJSON(plain(t))
			}
			text, err := yaml.MarshalWithOptions(t, yaml.IndentSequence(true))
			if err != nil {
				return err
			}
			_, err = a.out.Write(text)
			return err
		},
	}, &cobra.Command{
		Use:   "check",
		Short: "Check the configuration, every mistake at once; exit 1 if there is one",
		Long: "Check the configuration without connecting to anything. Variables of the environment that look like ours and override nothing are named,\n" +
			"but are no mistake: an orchestrator may have set them.",
		Example: "  hookferry config check --config hookferry.yml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := a.cfg(); err != nil {
				return err
			}
			unused := unusedEnviron(os.Environ())
			if a.json {
				return a.printJSON(map[string]any{"ok": true, "unused_environment": unused})
			}
			for _, name := range unused {
				fmt.Fprintf(a.out, "note: the environment variable %s overrides no key\n", name)
			}
			_, err := fmt.Fprintln(a.out, "the configuration is valid")
			return err
		},
	})
	return c
}

// otherEnviron are our variables that are no key of the file.
var otherEnviron = []string{envConfig, "HOOKFERRY_SECRET_KEYS", "HOOKFERRY_TEST_KAFKA", "HOOKFERRY_TEST_REDIS",
	"HOOKFERRY_TEST_REGISTRY", "HOOKFERRY_TEST_PYTHON"}

// unusedEnviron names the variables with our prefix that mean nothing to us, sorted.
func unusedEnviron(environ []string) []string {
	known := slices.Clone(otherEnviron)
	c := defaultConfig()
	for _, f := range fieldsOf(&c) {
		known = append(known, f.env())
	}
	unused := []string{}
	for _, line := range environ {
		name, _, _ := strings.Cut(line, "=")
		if strings.HasPrefix(name, envPrefix) && !slices.Contains(known, name) {
			unused = append(unused, name)
		}
	}
	slices.Sort(unused)
	return unused
}
