package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/host"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/recent"
	"github.com/hookferry/hookferry/router"
)

// Config is the whole configuration: a section per room, which owns what stands in it, its defaults and its bounds.
type Config struct {
	Kafka         kafka.Config          `yaml:"kafka"`
	Redis         deliverer.RedisConfig `yaml:"redis"`
	Router        router.Config         `yaml:"router"`
	Deliverer     deliverer.Config      `yaml:"deliverer"`
	Subscriptions subscriptions.Config  `yaml:"subscriptions"`
	Recent        recent.Config         `yaml:"recent"`
	Egress        egress.Config         `yaml:"egress"`
	Secrets       secrets.Config        `yaml:"secrets"`
	Host          host.Config           `yaml:"host"`
	Log           host.LogConfig        `yaml:"log"`
}

// defaultConfig is what a process does without a word about it.
func defaultConfig() Config {
	return Config{
		Kafka:         kafka.DefaultConfig(),
		Redis:         deliverer.DefaultRedisConfig(),
		Router:        router.DefaultConfig(),
		Deliverer:     deliverer.DefaultConfig(),
		Subscriptions: subscriptions.DefaultConfig(),
		Recent:        recent.DefaultConfig(),
		Egress:        egress.DefaultConfig(),
		Secrets:       secrets.DefaultConfig(),
		Host:          host.DefaultConfig(),
		Log:           host.DefaultLogConfig(),
	}
}

// sections lists what Validate asks, in the order of the file.
func (c Config) sections() []section {
	return []section{
		{"kafka", c.Kafka.Validate},
		{"redis", c.Redis.Validate},
		{"router", c.Router.Validate},
		{"deliverer", c.withoutRedis().Validate},
		{"subscriptions", c.Subscriptions.Validate},
		{"recent", c.Recent.Validate},
		{"egress", c.Egress.Validate},
		{"secrets", c.Secrets.Validate},
		{"host", c.Host.Validate},
		{"log", c.Log.Validate},
	}
}

// deliverer is the deliverer's configuration with the section redis in its place.
func (c Config) deliverer() deliverer.Config {
	d := c.Deliverer
	d.Redis = c.Redis
	return d
}

// withoutRedis is the deliverer's configuration without what is checked as a section of its own.
func (c Config) withoutRedis() deliverer.Config {
	d := c.Deliverer
	d.Redis = deliverer.DefaultRedisConfig()
	return d
}

type section struct {
	name     string
	validate func() error
}

// Validate names every mistake of every room at once.
func (c Config) Validate() error {
	var errs []error
	for _, s := range c.sections() {
		for _, e := range allLeaves(s.validate()) {
			errs = append(errs, &configError{0, s.name + "." + e.Error()})
		}
	}
	return errors.Join(errs...)
}

func allLeaves(err error) []error {
	if err == nil {
		return nil
	}
	return leaves(err)
}

// configError is one mistake in the configuration.
type configError struct {
	line     int // in the file; 0: it does not come from a place in it
	sentence string
}

func (e *configError) Error() string {
	if e.line > 0 {
		return fmt.Sprintf("line %d: %s", e.line, e.sentence)
	}
	return e.sentence
}

// Code is stable: programs may compare it.
func (e *configError) Code() string { return "config_invalid" }

// standsElsewhere is a key that a room's struct has and the file does not have there: Redis is a section of its own.
const standsElsewhere = "deliverer.redis"

// Names in the environment. What overrides a key of the file is made from its path: kafka.sasl.user is HOOKFERRY_KAFKA_SASL_USER.
const (
	envPrefix = "HOOKFERRY_"
	envConfig = "HOOKFERRY_CONFIG"
)

// loadConfig reads defaults, then the file (empty: none), then the environment, and checks the whole. The error joins every mistake.
func loadConfig(path string, environ []string) (Config, error) {
	c := defaultConfig()
	var errs []error
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return c, &configError{0, "the configuration file cannot be read: " + err.Error()}
		}
		if err := readYAML(text, &c); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
	}
	if err := readEnviron(environ, &c); err != nil {
		errs = append(errs, err)
	}
	// What could not be read kept its default, which is valid: no mistake is reported twice.
	errs = append(errs, c.Validate())
	return c, errors.Join(errs...)
}

// readEnviron lets the environment override single keys. A variable that is set and empty counts: it empties the key.
func readEnviron(environ []string, c *Config) error {
	set := map[string]string{}
	for _, line := range environ {
		if name, value, ok := strings.Cut(line, "="); ok && strings.HasPrefix(name, envPrefix) {
			set[name] = value
		}
	}
	var errs []error
	for _, f := range fieldsOf(c) {
		value, ok := set[f.env()]
		if !ok {
			continue
		}
		if err := f.setText(value); err != nil {
			errs = append(errs, &configError{0, fmt.Sprintf("environment variable %s: %v", f.env(), err)})
		}
	}
	return errors.Join(errs...)
}
