//go:build race

package pages_test

// raceDetector makes some tests take minutes, which `make root-tests` runs without it.
const raceDetector = true
