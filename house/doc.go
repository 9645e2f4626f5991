// Package house holds the house tests: the whole pipeline — publish, route, deliver, receive — on real bytes, from outside the rooms.
//
// They run on the broker and the Redis in memory (make test), and again on a real Apache Kafka and a real Redis (make test-kafka), which
// HOOKFERRY_TEST_KAFKA and HOOKFERRY_TEST_REDIS name. Each test has its own topic prefix and its own partitions' worth of services.
package house
