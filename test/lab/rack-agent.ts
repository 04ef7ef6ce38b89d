/** The agent over a rack's drivers, in this process, with the instructions that tests give it. */
import { AgentCore } from '../../agent/core.ts';
import type { Drivers } from '../../agent/drivers/port.ts';
import type { AgentLog } from '../../agent/log.ts';
import type { Instruction, NodeObservation } from '../../controller/api/protocol.generated.ts';
import { systemClock as clock } from '../../controller/runtime/clock.ts';
import { systemRandom as random } from '../../controller/runtime/random.ts';
import type { TestStep } from '../support/agent-room.ts';
import { until } from '../support/until.ts';

/** The instructions given, by their ids in order: agents that come after one another have them in common. */
export type Given = Map<string, Instruction>;

export class RackAgent {
  readonly #core: AgentCore;
  readonly #given: Given;

  /** @param given is handed on to the agent that comes after this one */
  constructor(
    options: {
      readonly nodes: readonly string[];
      readonly drivers: Drivers;
      readonly log: AgentLog;
      readonly onError: (error: unknown) => void;
    },
    given: Given = new Map(),
  ) {
    this.#core = new AgentCore({ name: 'rack-0', version: 'test', ...options, clock, random });
    this.#given = given;
  }

  seen(node = 'n0'): NodeObservation {
    const seen = this.#core.observation(node);
    if (seen === undefined) throw new Error(`${node} was never observed`);
    return seen.node;
  }

  give(step: TestStep, epoch: number, node = 'n0'): string {
    const operationId = `op-${this.#given.size + 1}`;
    const instruction = { operationId, node, epoch, ...step } as Instruction;
    this.#given.set(operationId, instruction);
    const [result] = this.#core.instruct({ term: 1, instructions: [instruction] }).results;
    if (result?.result !== 'Accepted') throw new Error(`${step.verb}: ${result?.reason}: ${result?.message}`);
    return operationId;
  }

  /** Waits until the operation is over, which an agent that started meanwhile is told again; gives how it ended. */
  async ended(id: string, node = 'n0', limitMs = 60_000): Promise<NonNullable<NodeObservation['operation']>> {
    const over = (): NodeObservation['operation'] | undefined => {
      const { operation } = this.seen(node);
      const given = this.#given.get(id);
      if (operation?.id === id && operation.awaitsWord && given !== undefined)
        this.#core.instruct({ term: 1, instructions: [given] });
      return operation?.id === id && operation.status !== 'Running' ? operation : undefined;
    };
    await until(`${id} on ${node} is over: ${JSON.stringify(this.seen(node))}`, () => over() !== undefined, limitMs);
    return over() as NonNullable<NodeObservation['operation']>;
  }

  /** Gives the step and waits until it is done. @throws when it fails */
  async run(step: TestStep, epoch: number, node = 'n0', limitMs = 60_000): Promise<void> {
    const operation = await this.ended(this.give(step, epoch, node), node, limitMs);
    if (operation.status !== 'Done') throw new Error(`${step.verb}: ${JSON.stringify(operation)}`);
  }

  async runAll(steps: readonly TestStep[], epoch: number, node = 'n0', limitMs = 60_000): Promise<void> {
    for (const step of steps) await this.run(step, epoch, node, limitMs);
  }

  /** As when its process is killed: the machines go on. */
  close(): void {
    this.#core.close();
  }
}
