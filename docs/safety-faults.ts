/** What the faults are that the simulator makes itself, for the page; those of the machine room say it in their own table. */
import { faultTable } from '../agent/drivers/simulated/faults.ts';

const own: Readonly<Record<string, string>> = {
  'api.conflict': 'a conditional write is refused as if somebody else had written',
  'api.edited': 'somebody edits the object just before the write',
  'api.unavailable': 'a call fails before it reaches the server',
  'api.busy': '429, come again',
  'api.refused': 'admission refuses the write',
  'api.lostAnswer': 'the write happens and its answer is lost',
  'api.lateWrite': 'a write that timed out happens later',
  'api.slow': 'a call takes seconds',
  'api.slowList': 'a list takes long, page by page',
  'api.cutWatch': 'a watch breaks off',
  'api.goneWatch': 'a watch ends with 410 Gone',
  'api.twice': 'an event of a watch comes twice',
  'api.swapped': 'events of different objects come in another order',
  'api.stalled': 'a watch delivers nothing for a while and does not say so',
  'api.compacted': 'old versions are gone, every watch must list again',
  'api.outage': 'the server is not reachable, for one process or all',
  'api.touched': 'somebody annotates an object of ours',
  'operator.killed': 'a process is killed',
  'operator.diesAtCall': 'a process dies right before or after its n-th call to anybody',
  'operator.paused': 'a process stands still, up to forty Lease durations, and wakes up',
  'operator.leaseGone': 'the Lease is deleted',
  'operator.another': 'one more process starts',
  'operator.skew': 'wall clocks differ',
  'operator.slowClock': 'a monotonic clock runs slow: two processes believe in good faith that they lead',
  'operator.down':
    'every process is killed, and none runs for minutes, up to half an hour, while the world goes on; who comes back may die at one of its first calls',
  'agents.unreachable': 'a request does not reach the agent',
  'agents.lostRequest': 'a request is lost, and its sender waits',
  'agents.lostAnswer': 'the work is done and its answer is lost',
  'agents.lostCommitAnswer': 'the answer to the commit of a devirtualization is lost',
  'agents.slow': 'a request takes long',
  'agents.twice': 'a request arrives twice',
  'agents.late': 'an old request arrives again, minutes later',
  'agents.killed': 'an agent is killed',
  'agents.diesAtWrite': 'an agent dies right after its n-th write to its log',
  'agents.diesAtAct': 'an agent dies right before its n-th command to a driver',
  'agents.forgets': 'an agent dies, and its log loses what was not flushed',
  'agents.diskLost': 'an agent comes back with an empty log',
  'agents.two': 'two agents run for one rack',
  'agents.partitioned': 'a rack is cut off, from one process of the operator or all',
  'agents.linesLate': 'observations come late',
  'people.nodeStatusLost': 'the status of a PhysicalNode is taken away',
  'people.allocationStatusLost': 'the status of an allocation is taken away',
  'people.allocationForced': 'an allocation is deleted with its finalizer dropped',
  'people.nodeDeleted': 'a PhysicalNode in use is deleted',
  'people.nodeForced': 'a PhysicalNode is deleted with its finalizer dropped',
  'people.backupRestored': 'the API server is restored from an older backup',
  'people.agentMoved': 'nodes move from one BitVisorAgent to another',
  'people.agentForgotten': 'a BitVisorAgent is deleted and comes back',
  'people.extended': 'a window is made longer, shorter or endless while it runs',
  'people.deletesAll': 'every allocation is deleted at once',
  'git.badUnparsed': 'a commit leaves a file that is no YAML, beside good ones',
  'git.badKind': 'a commit leaves an object of a kind that does not exist',
  'git.badValue': 'a commit leaves a value of a wrong type',
  'git.badField': 'a commit leaves a misspelt field',
  'git.movedBadly':
    'an object moves to a file that cannot be read, out of one that may get an error in the same commit',
  'git.copied': 'two files define the same object',
  'git.emptied': 'everything is removed at once; then put back, confirmed, or neither',
  'git.pruned':
    'every allocation is removed at once, and other files stay; then put back, also within the grace period, or confirmed',
  'git.rewound': 'the branch is forced back to an older commit, and perhaps forth again',
  'git.startedOver': 'the repository is made anew, without a common past and with some of the files',
  'git.unreachable': 'the repository does not answer, or has no such branch',
  'git.editedMeanwhile':
    'somebody changes by kubectl what git defines, perhaps the field that git changes in the same minute',
  'git.deletedMeanwhile': 'somebody deletes by kubectl what git defines',
};

/** A sentence without its full stop; empty for one that nobody described. */
export function faultText(name: string): string {
  const kind = name.slice(name.indexOf('.') + 1);
  const ofRoom = Object.entries(faultTable).find(([known]) => known === kind)?.[1].what;
  if (name in own) return own[name] ?? '';
  return ofRoom ?? (name.startsWith('machines.') ? `the next ${kind} of a machine fails` : '');
}
