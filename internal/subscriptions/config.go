package subscriptions

import (
	"errors"
	"fmt"
	"time"
)

// Config bounds what may be subscribed, for the whole deployment.
type Config struct {
	// MaxPerCompany is how many subscriptions a company may have. Every event of the company is looked up against all of them.
	MaxPerCompany int `yaml:"max_per_company"`
	// ClockSpread is how far the brokers' clocks may lie apart. A cut lies so much further in the future, and create returns so much later.
	ClockSpread time.Duration `yaml:"clock_spread"`
}

// DefaultConfig allows 100 subscriptions a company, and brokers a second apart.
func DefaultConfig() Config { return Config{MaxPerCompany: 100, ClockSpread: time.Second} }

// Validate reports every mistake at once, by field name.
func (c Config) Validate() error {
	var errs []error
	if c.MaxPerCompany < 1 || c.MaxPerCompany > 100_000 {
		errs = append(errs, fmt.Errorf("max_per_company: %d must lie between 1 and 100000: with more, one event becomes more tasks than a batch can hold", c.MaxPerCompany))
	}
	if c.ClockSpread < 0 || c.ClockSpread > 10*time.Second {
		errs = append(errs, fmt.Errorf("clock_spread: %v must lie between 0 and 10s: brokers that are further apart need their clocks set", c.ClockSpread))
	}
	return errors.Join(errs...)
}
