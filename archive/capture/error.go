package capture

import "errors"

// ErrEnded is what [Container].Resume gives of a container that went on and has come to its end by itself.
var ErrEnded = errors.New("the container has ended")

// State is what became of the container of a failed capture.
type State string

// The states. Only Lost needs the operator.
const (
	Untouched   State = "the container was not touched"
	Running     State = "the container keeps running"
	StillPaused State = "the container is paused, as it was found"
	Gone        State = "the container ended as soon as it went on"
	Lost        State = "the container could not be put in its wanted state: run ckarchive recover"
)

// Error is the failure of [Run]: how far it came and what became of the container.
type Error struct {
	Phase Phase // the last phase that was reached
	State State
	Err   error
}

// Error gives the reason and the state of the container.
func (e *Error) Error() string {
	text := e.Err.Error() + "; "
	if e.Archived() {
		text += "the archive is complete; "
	}
	return text + string(e.State)
}

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Err }

// Archived tells whether the archive is complete and has its name all the same.
func (e *Error) Archived() bool { return e.Phase == Committed }
