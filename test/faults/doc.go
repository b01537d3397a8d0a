// Package faults runs ckarchive against registries and surroundings that misbehave.
package faults
