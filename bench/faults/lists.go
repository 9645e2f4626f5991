package main

// allScenarios in the order in which they run, but for those that need other brokers: the rig takes those of one kind together.
func allScenarios() []scenario {
	var all []scenario
	for _, list := range [][]scenario{scenarios, killScenarios, sweepScenarios, kafkaScenarios, redisScenarios, hostileScenarios, spanScenarios, pointScenarios} {
		all = append(all, list...)
	}
	return all
}
