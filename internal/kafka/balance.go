package kafka

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"sync"

	kgo "github.com/segmentio/kafka-go"
)

// owned is what a member tells the leader of its group: what it had in which generation.
type owned struct {
	generation int32
	co         []int32 // partition numbers of the co-partitioned topics
	spread     []TP
}

// member is a member as the leader of the group sees it.
type member struct {
	id string
	owned
}

// share is what a member gets.
type share struct {
	co     []int32
	spread []TP
}

// assign decides who owns what. It is pure: the same members and partitions give the same answer in whatever order they stand.
//
// Partitions 0..co-1 of the co-partitioned topics, and those in spread, are each dealt evenly: no member has two more than another.
// A member keeps what it had as far as that allows; of two that claim the same, the one with the younger generation had it last.
func assign(members []member, co int, spread []TP) map[string]share {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.id, b.id) })
	numbers := make([]int32, co)
	for i := range numbers {
		numbers[i] = int32(i)
	}
	spread = slices.Clone(spread)
	slices.SortFunc(spread, compareTP)
	cos := deal(members, numbers, func(m member) []int32 { return m.co }, cmp.Compare[int32], func(int32) string { return "" })
	spreads := deal(members, spread, func(m member) []TP { return m.spread }, compareTP, func(tp TP) string { return tp.Topic })
	out := make(map[string]share, len(members))
	for i, m := range members {
		out[m.id] = share{cos[i], spreads[i]}
	}
	return out
}

func compareTP(a, b TP) int {
	if c := strings.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return cmp.Compare(a.Partition, b.Partition)
}

// deal gives each of items (sorted, distinct) to one of members (sorted by id), evenly and with few moves.
// Among items of one kind (topic) it is even too, as far as keeping allows.
func deal[T comparable](members []member, items []T, had func(member) []T, compare func(a, b T) int, kind func(T) string) [][]T {
	if len(members) == 0 {
		return nil
	}
	kept := claims(members, items, had)
	quota := quotas(kept, len(items))
	var free []T
	taken := map[T]bool{}
	perKind := make([]map[string]int, len(members))
	for i := range members {
		perKind[i] = map[string]int{}
		for _, t := range kept[i] {
			perKind[i][kind(t)]++
		}
		for len(kept[i]) > quota[i] { // give back from the kind it has most of, the last of it
			worst := 0
			for j, t := range kept[i] {
				if perKind[i][kind(t)] >= perKind[i][kind(kept[i][worst])] {
					worst = j
				}
			}
			perKind[i][kind(kept[i][worst])]--
			kept[i] = slices.Delete(kept[i], worst, worst+1)
		}
		for _, t := range kept[i] {
			taken[t] = true
		}
	}
	for _, t := range items {
		if !taken[t] {
			free = append(free, t)
		}
	}
	for _, t := range free {
		best := -1
		for i := range members {
			if len(kept[i]) >= quota[i] {
				continue
			}
			if best < 0 || cmp.Or(cmp.Compare(perKind[i][kind(t)], perKind[best][kind(t)]), cmp.Compare(len(kept[i]), len(kept[best]))) < 0 {
				best = i
			}
		}
		kept[best] = append(kept[best], t)
		perKind[best][kind(t)]++
	}
	for i := range kept {
		slices.SortFunc(kept[i], compare)
	}
	return kept
}

// claims is what each member had, each item given to the one who had it last.
func claims[T comparable](members []member, items []T, had func(member) []T) [][]T {
	exists := make(map[T]bool, len(items))
	for _, t := range items {
		exists[t] = true
	}
	last := map[T]int{} // index of the member
	for i, m := range members {
		for _, t := range had(m) {
			if j, ok := last[t]; exists[t] && (!ok || m.generation > members[j].generation) {
				last[t] = i
			}
		}
	}
	kept := make([][]T, len(members))
	for _, t := range items { // in their order
		if i, ok := last[t]; ok {
			kept[i] = append(kept[i], t)
		}
	}
	return kept
}

// quotas says how many each member gets: n/members, and one more for as many as the remainder, first for those that have most.
func quotas[T any](kept [][]T, n int) []int {
	order := make([]int, len(kept))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(kept[b]), len(kept[a])) })
	quota := make([]int, len(kept))
	for rank, i := range order {
		quota[i] = n / len(kept)
		if rank < n%len(kept) {
			quota[i]++
		}
	}
	return quota
}

// balancer is kafka-go's way to ask us. Its user data tells the leader what this member had.
type balancer struct {
	gc GroupConfig

	mu  sync.Mutex
	had owned
}

// ProtocolName is agreed on by all members: a change of what user data or assignment mean needs another name.
func (b *balancer) ProtocolName() string { return "hookferry-1" }

// UserData is sent with every join.
func (b *balancer) UserData() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.had.encode(), nil
}

// remember keeps what a generation gave this member.
func (b *balancer) remember(generation int32, assigned map[TP]Committed) {
	had := owned{generation: generation}
	for tp := range assigned {
		if len(b.gc.CoPartitioned) > 0 && tp.Topic == b.gc.CoPartitioned[0] {
			had.co = append(had.co, tp.Partition)
		} else if slices.Contains(b.gc.Spread, tp.Topic) {
			had.spread = append(had.spread, tp)
		}
	}
	slices.Sort(had.co)
	slices.SortFunc(had.spread, compareTP)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.had = had
}

// AssignGroups is called on the member that leads the group.
func (b *balancer) AssignGroups(in []kgo.GroupMember, partitions []kgo.Partition) kgo.GroupMemberAssignments {
	members := make([]member, len(in))
	for i, m := range in {
		members[i] = member{id: m.ID, owned: decodeOwned(m.UserData)}
	}
	co := 0
	var spread []TP
	there := map[TP]bool{}
	for _, p := range partitions {
		tp := TP{p.Topic, int32(p.ID)}
		there[tp] = true
		if slices.Contains(b.gc.CoPartitioned, p.Topic) {
			co = max(co, p.ID+1)
		} else if slices.Contains(b.gc.Spread, p.Topic) {
			spread = append(spread, tp)
		}
	}
	out := kgo.GroupMemberAssignments{}
	for id, s := range assign(members, co, spread) {
		topics := map[string][]int{}
		for _, p := range s.co {
			for _, t := range b.gc.CoPartitioned {
				if there[TP{t, p}] {
					topics[t] = append(topics[t], int(p))
				}
			}
		}
		for _, tp := range s.spread {
			topics[tp.Topic] = append(topics[tp.Topic], int(tp.Partition))
		}
		out[id] = topics
	}
	return out
}

// encode writes: version 1, generation, count and numbers, count of topics, each with name and count and numbers. All uvarints.
func (o owned) encode() []byte {
	d := []byte{1}
	d = binary.AppendUvarint(d, uint64(uint32(o.generation)))
	numbers := func(list []int32) {
		d = binary.AppendUvarint(d, uint64(len(list)))
		for _, p := range list {
			d = binary.AppendUvarint(d, uint64(p))
		}
	}
	numbers(o.co)
	byTopic := map[string][]int32{}
	for _, tp := range o.spread {
		byTopic[tp.Topic] = append(byTopic[tp.Topic], tp.Partition)
	}
	d = binary.AppendUvarint(d, uint64(len(byTopic)))
	for _, t := range slices.Sorted(maps.Keys(byTopic)) {
		d = binary.AppendUvarint(d, uint64(len(t)))
		d = append(d, t...)
		numbers(byTopic[t])
	}
	return d
}

// decodeOwned reads user data; of what it cannot read, nothing is owned: that costs moves, no more.
func decodeOwned(b []byte) owned {
	if len(b) == 0 || b[0] != 1 {
		return owned{}
	}
	b = b[1:]
	ok := true
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v >= 1<<31 {
			ok, b = false, nil
			return 0
		}
		b = b[n:]
		return v
	}
	numbers := func() (out []int32) {
		for n := number(); n > 0 && ok; n-- {
			out = append(out, int32(number()))
		}
		return out
	}
	o := owned{generation: int32(number()), co: numbers()}
	for n := number(); n > 0 && ok; n-- {
		size := number()
		if !ok || size > uint64(len(b)) {
			return owned{}
		}
		topic := string(b[:size])
		b = b[size:]
		for _, p := range numbers() {
			o.spread = append(o.spread, TP{topic, p})
		}
	}
	if !ok || len(b) != 0 {
		return owned{}
	}
	return o
}
