package kafka

import (
	"math"
	"time"
)

// Partition is where a key belongs: murmur2 as Java's default partitioner has it (librdkafka: partitioner=murmur2_random).
func Partition(key []byte, n int) int32 {
	return int32((murmur2(key) & math.MaxInt32) % uint32(n))
}

func murmur2(data []byte) uint32 {
	const m, r = 0x5bd1e995, 24
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for len(data) >= 4 {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
		data = data[4:]
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}

// TierFor is the largest tier that is not longer than what remains. ok is false if even the smallest is longer: the rest is waited in memory.
// tiers must ascend.
func TierFor(tiers []Tier, remaining time.Duration) (i int, ok bool) {
	for i = len(tiers) - 1; i >= 0; i-- {
		if tiers[i].Wait <= remaining {
			return i, true
		}
	}
	return 0, false
}
