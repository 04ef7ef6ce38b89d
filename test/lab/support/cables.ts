/** What passes at every cable of a rack, whoever sent it: the judge of what a hostile guest reached. */
import assert from 'node:assert/strict';
import { NetnsProgram } from './netns-program.ts';

/** Frames by place: "d0 in" came from the machine at tap d0, "d2 out" went to the machine at d2, "data in" was for the rack itself. */
export type Passed = Readonly<Record<string, number>>;

export class Cables {
  readonly #program: NetnsProgram;

  constructor(netns: string) {
    this.#program = new NetnsProgram(netns, 'cables.py');
  }

  /** Counts frames that hold the bytes, from now on. @param part as hexadecimal text */
  async watch(part: string): Promise<void> {
    await this.#program.ask({ watch: part });
  }

  /** What passed until now of what is watched for. @throws AssertionError when frames may have been missed */
  async seen(part: string): Promise<Passed> {
    const { seen, lost } = await this.#program.ask<{ seen: Passed; lost: number }>({ seen: part });
    assert.equal(lost, 0, 'frames were missed, and so this says nothing');
    return seen;
  }

  /** Sends a frame out of the rack's end of a cable, to the machine. */
  async send(ifname: string, frame: string): Promise<void> {
    await this.#program.ask({ send: frame, from: ifname });
  }

  end(): Promise<void> {
    return this.#program.end();
  }
}
