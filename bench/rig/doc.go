// Package rig starts the real things that the measurements need and that no test replaces: Apache Kafka and Redis from the
// repository's own scripts, the hookferry binary as separate processes, a publisher and a farm of receivers.
//
// Everything listens on 127.0.0.1 and everything that was started is stopped by Close, also after a panic of the caller:
// each process is started with the parent-death signal set.
package rig
