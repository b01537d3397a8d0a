// Package capture is the order in which a running container becomes an archive, so
// that at every moment either the container runs or a complete archive exists:
//
//	prepare   the sink is open, the container locked, the journal written
//	pause     all processes stand still
//	dump      CRIU writes its images and leaves the processes frozen
//	collect   changed files of the root file system: memory and files agree
//	          (with leave-running the container resumes here)
//	archive   the sink takes every entry and commits: written, synced, named
//	end       the container is killed, or resumed
//
// Whatever fails before the commit resumes the container. A journal beside the
// spool says how far it came; [Recover] puts right what a killed process left.
//
// One case is different: an established TCP connection must stay locked from the
// dump to the end of the processes, so that CRIU itself has to kill them. Then everything
// from collect to commit happens inside CRIU's dump, while it holds the processes
// ([Job.EndInDump]): an error makes CRIU release them.
package capture
