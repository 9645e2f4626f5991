package kafka

import "context"

// OffsetsOf is Offsets for some partitions, of one topic or of several: one that has no leader keeps no other from being asked. at is Earliest or Latest.
func (c *Client) OffsetsOf(ctx context.Context, tps []TP, at int64) (map[TP]int64, error) {
	for _, tp := range tps {
		if _, err := c.PartitionCount(ctx, tp.Topic); err != nil {
			return nil, err
		}
	}
	return c.listOffsets(ctx, tps, at)
}
