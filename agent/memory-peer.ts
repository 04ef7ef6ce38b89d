/** An agent core as the in-memory adapter of the operator reaches it. */
import type { MemoryPeer } from '../controller/agents/memory.ts';
import type { AgentCore } from './core.ts';
import { ObservationFeed } from './feed.ts';

export function memoryPeer(core: AgentCore): MemoryPeer {
  return {
    open: (resume) => new ObservationFeed(core, resume),
    instruct: (batch) => core.instruct(batch),
  };
}
