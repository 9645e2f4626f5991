package main

import (
	"context"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/deliverer"
	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/host"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/recent"
	"github.com/hookferry/hookferry/router"
)

func routerCommand(a *app) *cobra.Command {
	return serviceCommand(a, []string{"router"}, &cobra.Command{
		Use:     "router",
		Short:   "Turn events into tasks; run as many as there are partitions",
		Example: "  hookferry router --config hookferry.yml",
	})
}

func delivererCommand(a *app) *cobra.Command {
	return serviceCommand(a, []string{"deliverer"}, &cobra.Command{
		Use:     "deliverer",
		Short:   "Send tasks as signed webhooks; run as many as there are partitions",
		Example: "  hookferry deliverer --config hookferry.yml",
	})
}

func allCommand(a *app) *cobra.Command {
	return serviceCommand(a, allRoles, &cobra.Command{
		Use:     "all",
		Short:   "Router, deliverer and recent reservations in one process, on your Kafka and Redis",
		Example: "  hookferry topics create && hookferry all",
	})
}

// allRoles are the services of all and of dev.
var allRoles = []string{"router", "deliverer", "recent"}

const serviceHelp = `

The topics must exist (hookferry topics create). The first SIGTERM or SIGINT stops gracefully: what is under way is finished within the grace, the rest
is left to a successor and never counted as a failed try. A second one ends the process at once.`

func serviceCommand(a *app, roles []string, c *cobra.Command) *cobra.Command {
	c.Long = c.Short + "." + serviceHelp
	c.Args = cobra.NoArgs
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := a.cfg()
		if err != nil {
			return err
		}
		keys, err := a.keyring()
		if err != nil {
			return err
		}
		log, err := a.logger()
		if err != nil {
			return err
		}
		log.Info("hookferry "+strings.Join(roles, " and "), zap.String("version", version()), zap.Strings("brokers", cfg.Kafka.Brokers),
			zap.String("topic_prefix", cfg.Kafka.TopicPrefix))
		p, err := newPipeline(cfg, keys, log)
		if err != nil {
			return err
		}
		defer p.close()
		return p.runBehindGate(c.Context(), roles)
	}
	return c
}

// pipeline is what the services of a process share, made from a configuration. router, deliverer, all, dev and demo are the same pipeline with more or
// fewer roles.
type pipeline struct {
	cfg     Config
	log     *zap.Logger
	metrics *prometheus.Registry
	kafka   *kafka.Client
	table   *subscriptions.Table
	writer  *subscriptions.Writer
	policy  *egress.Policy

	snapshots snapshotPublisher
}

// newPipeline makes no round trip.
func newPipeline(cfg Config, keys *secrets.Keyring, log *zap.Logger) (*pipeline, error) {
	policy, err := egress.NewPolicy(cfg.Egress)
	if err != nil {
		return nil, err
	}
	client, err := kafka.Open(cfg.Kafka, kafka.Options{Log: log.Named("kafka")})
	if err != nil {
		return nil, err
	}
	p := &pipeline{cfg: cfg, log: log, metrics: host.NewRegistry(version()), kafka: client, policy: policy}
	p.table = subscriptions.NewTable(client, keys, subscriptions.Options{Log: log.Named("subscriptions")})
	p.writer = subscriptions.NewWriter(client, p.table, keys, policy, cfg.Subscriptions)
	p.snapshots = newSnapshotPublisher(client)
	return p, nil
}

func (p *pipeline) close() {
	p.snapshots.close()
	p.kafka.Close()
}

// run runs the services of the roles, and what else is given behind them, until ctx ends or a signal comes. The table is first to start and last to
// stop, because router and deliverer ask it. Recent reservations without a listener are left out: nobody could ask.
func (p *pipeline) run(ctx context.Context, roles []string, more ...host.Service) error {
	services, err := p.services(roles)
	if err != nil {
		return err
	}
	return host.Run(ctx, p.cfg.Host, p.log, p.metrics, append(services, more...)...)
}

// runBehindGate is run on a Kafka that others set up: nothing begins before its topics are found right.
func (p *pipeline) runBehindGate(ctx context.Context, roles []string) error {
	services, err := p.services(roles)
	if err != nil {
		return err
	}
	gate := newTopicsGate(p.kafka, p.log.Named("topics"))
	gated := []host.Service{gate}
	for _, s := range services {
		gated = append(gated, behindGate{s, gate})
	}
	return host.Run(ctx, p.cfg.Host, p.log, p.metrics, gated...)
}

func (p *pipeline) services(roles []string) ([]host.Service, error) {
	var services []host.Service
	if !slices.Equal(roles, []string{"recent"}) {
		services = append(services, p.table)
	}
	for _, role := range roles {
		if role == "recent" && p.cfg.Recent.Listen == "" && len(roles) > 1 {
			continue
		}
		s, err := p.service(role)
		if err != nil {
			return nil, err
		}
		services = append(services, s)
	}
	return services, nil
}

func (p *pipeline) service(role string) (host.Service, error) {
	switch role {
	case "router":
		return router.New(p.cfg.Router, router.Deps{Kafka: p.kafka, Table: p.table, Log: p.log, Metrics: p.metrics, ClockSpread: p.cfg.Subscriptions.ClockSpread})
	case "recent":
		return recent.New(p.cfg.Recent, recent.Deps{Kafka: p.kafka, Publish: p.snapshots.publish, Log: p.log, Metrics: p.metrics})
	case "deliverer":
		d, err := deliverer.New(p.cfg.deliverer(), deliverer.Deps{
			Kafka: p.kafka, Table: p.table, Writer: p.writer, Policy: p.policy, Log: p.log, Metrics: p.metrics, Version: version(),
		})
		if err != nil {
			return nil, err
		}
		p.table.SetOwner(d) // the deliverer's partitions are those of the subscriptions: who owns one repairs and sweeps it
		return d, nil
	}
	panic("BUG: no service has the role " + role)
}
