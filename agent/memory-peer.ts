/** An agent core as an operator of the same process reaches it: the peer of controller/agents/memory.ts, without a network. */
import type { InstructionBatch, InstructionBatchResult } from '../controller/api/protocol.generated.ts';
import type { AgentCore } from './core.ts';
import { ObservationFeed, type Resume } from './feed.ts';

export interface CorePeer {
  open(resume: Resume | undefined): ObservationFeed;
  instruct(batch: InstructionBatch): InstructionBatchResult;
}

export function memoryPeer(core: AgentCore): CorePeer {
  return {
    open: (resume) => new ObservationFeed(core, resume),
    instruct: (batch) => core.instruct(batch),
  };
}
