// Package schemas is the ground that all rooms stand on: what lies on the topics, and how it is read and written.
package schemas
