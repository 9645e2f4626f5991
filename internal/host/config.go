package host

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config is about the process, not about what it does.
type Config struct {
	// Listen is where /metrics, /healthz and /readyz are served. They show names of topics and subscriptions' ids, never secrets, and need no password:
	// keep the address inside. Empty: not served.
	Listen string `yaml:"listen"`
	// Profile also serves /debug/pprof there. Profiles show code and timings, never values; taking one costs some percent of the processor meanwhile.
	Profile bool `yaml:"profile"`
	// StopTimeout is how long all services together may take to stop. Then the process ends as it is: what was open is named and left to a successor.
	StopTimeout time.Duration `yaml:"stop_timeout"`
}

// DefaultConfig listens on this machine only.
func DefaultConfig() Config {
	return Config{Listen: "127.0.0.1:9464", StopTimeout: 15 * time.Second}
}

// FieldError is one mistake in the configuration.
type FieldError struct{ Field, Problem string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Code is stable: programs may compare it.
func (e *FieldError) Code() string { return "config_invalid" }

// Validate names every mistake at once, by field, with the reason for the bound.
func (c Config) Validate() error {
	var errs []error
	if c.Listen != "" {
		if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
			errs = append(errs, &FieldError{"listen", fmt.Sprintf("%q is not host:port (:port listens on every address; empty turns it off)", c.Listen)})
		}
	}
	if c.Profile && c.Listen == "" {
		errs = append(errs, &FieldError{"profile", "is true, but listen is empty: there is nowhere to serve it"})
	}
	if c.StopTimeout < time.Second || c.StopTimeout > 10*time.Minute {
		errs = append(errs, &FieldError{"stop_timeout", fmt.Sprintf("%v is not within 1s and 10m: offsets must be committed, and a stop should end", c.StopTimeout)})
	}
	return errors.Join(errs...)
}

// LogConfig says how to log. Logs go to standard error.
type LogConfig struct {
	Format string `yaml:"format"` // "json" or "console"
	Level  string `yaml:"level"`  // debug, info, warn, error
}

// DefaultLogConfig is made for machines.
func DefaultLogConfig() LogConfig { return LogConfig{Format: "json", Level: "info"} }

// Validate names every mistake at once, by field.
func (c LogConfig) Validate() error {
	var errs []error
	if c.Format != "json" && c.Format != "console" {
		errs = append(errs, &FieldError{"format", fmt.Sprintf("%q is neither json nor console", c.Format)})
	}
	if _, err := c.level(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c LogConfig) level() (zapcore.Level, error) {
	switch c.Level {
	case "debug":
		return zapcore.DebugLevel, nil
	case "info":
		return zapcore.InfoLevel, nil
	case "warn":
		return zapcore.WarnLevel, nil
	case "error":
		return zapcore.ErrorLevel, nil
	}
	return zapcore.InfoLevel, &FieldError{"level", fmt.Sprintf("%q is none of debug, info, warn, error", c.Level)}
}

// NewLogger makes the process's logger of a valid LogConfig. It writes every line at once: the last line before a crash is the one that is wanted.
func NewLogger(c LogConfig, w io.Writer) *zap.Logger {
	level, err := c.level()
	if err != nil {
		panic("BUG: the log's configuration was not validated: " + err.Error())
	}
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey, enc.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
	enc.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	if c.Format == "console" {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level))
}
