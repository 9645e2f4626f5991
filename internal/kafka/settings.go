package kafka

import "context"

// TopicSettings reads the settings of topics as the brokers have them, by topic and name: those of `topics check`, which may differ from ours.
func (c *Client) TopicSettings(ctx context.Context, topics []string) (map[string]map[string]string, error) {
	return c.describeConfigs(ctx, topics)
}
