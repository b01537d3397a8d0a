// Package faults runs ckarchive against registries, disks, limits and other surroundings that misbehave, and kills it at
// every step. What needs containers is in test/e2e; `make faults` runs the long form of both, which takes every step and
// every phase, three times.
//
// After each fault the container runs or its archive is complete, nothing half written has a final name, and no mount,
// cgroup, process, packet filter rule or temporary file is left when recover, gc or the next command has run.
//
//	Fault                                            Test
//	destination missing, existing, link, device      TestExportDestinations
//	full disk: destination, spool, store             TestExportToFullDisk, TestExportWithFullSpool, TestFullStore
//	errors of fsync and rename, EIO, EDQUOT          TestFailingSystemCalls, TestFaultyDisk (here and in test/e2e)
//	read-only store                                  TestReadOnlyStore
//	sync of the directory fails                      TestRunNotDurable of archive/capture
//	order of write, sync, rename                     TestOrderOfSystemCalls, TestRunOrder of archive/capture
//	SIGINT, SIGTERM, SIGKILL in every stage          TestInterruptedExport, TestInterruptedExportOfConnections,
//	                                                 TestInterruptedTransfers, TestKilledRestore
//	SIGKILL at every system call that leaves a mark  TestKilledAtEveryStep, TestExportKilledAtEveryStep,
//	                                                 TestRestoreKilledAtEveryStep
//	reboot after that                                TestRecover of archive/capture
//	CRIU killed or hanging in every phase            TestCRIUEndsInDump, TestCRIUEndsInRestore
//	the same, and ckarchive and its guard killed     TestRecoverEndsHangingDump, TestRecoverEndsHangingRestore
//	network lock left behind                         TestNetworkLockOfKilledCRIU
//	deadline                                         TestTimeout, TestSessionStopsAtContext of criu
//	log without end, logs without number             TestSessionStopsAtLogLimit of criu, TestPruneLogs of cmd/ckarchive
//	what CRIU cannot dump                            TestDumpFileLocksExplained of criu, TestCheckVerdicts
//	container stopped, paused, ended                 TestContainersThatDoNotRun, TestPausedContainer
//	several at work on one container or one store    TestBusy, TestTogether, TestStoreProcesses of registry
//	no CRIU, no runtime, no rights                   TestWithoutCRIU, TestNotRoot, TestUnprivileged
//	a step of the runtime fails                      TestRunFailures of archive/capture
//	closed or full outputs, broken pipes             TestClosedDescriptors, TestFullOutput, TestOutputsThatFail
//	limits of files, descriptors, memory             TestLimits (here and in test/e2e)
//	clocks                                           TestClocks: times of files; that of the host is never set
//	registry cut, silent, slow, lying                TestHostileRegistries, TestSlowDrip, TestStalls, TestPushFaults and
//	                                                 TestPullFaults of registry, TestRegistryGoesAway
//	proxy that wants a login, silent name servers    TestProxyWantsLogin, TestNameServersThatAreSilent
//	ID or root file system in use                    TestUsedID, TestRootfs
//	images, base or mounts that do not fit           TestDamagedArchives, TestVolumeIsMissing, TestCheckSource
//	restored container ends at once                  TestRestoreFails
//
// Not produced: power loss (the order of system calls stands for it), SELinux and AppArmor, a task that cannot be frozen, a
// quota of a real disk (errors of system calls stand for it), and a wrong clock of the host, which all of its programs would have.
package faults
