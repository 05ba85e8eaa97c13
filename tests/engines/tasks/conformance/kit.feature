Feature: What the conformance kit asks for, in other words and with other data

  Scenario: a call puts out the content of the answer
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-1, version: '1.0.0'}
    do:
    - list:
        call: http
        with: {method: get, endpoint: {uri: 'https://petstore.swagger.io/v2/pet/findByStatus?status={wanted}'}}
        output: {as: '.[1]'}
    """
    And given the workflow input is:
    """yaml
    wanted: available
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow output should have properties 'id', 'name', 'status'
    And the workflow output should have a 'id' property with value:
    """yaml
    2
    """

  Scenario: a call puts out the whole answer
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-2, version: '1.0.0'}
    do:
    - pet:
        call: http
        with: {method: get, endpoint: {uri: 'https://petstore.swagger.io/v2/pet/{number}'}, output: response}
    """
    And given the workflow input is:
    """yaml
    number: 2
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow output should have properties 'request.method', 'request.uri', 'request.headers', 'headers', 'statusCode'
    And the workflow output should have properties 'content.id', 'content.name'

  Scenario: a call tells user name and password
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-3, version: '1.0.0'}
    do:
    - enter:
        call: http
        with:
          method: get
          endpoint:
            uri: https://httpbin.org/basic-auth/{who}/{word}
            authentication: {basic: {username: '${ .who }', password: '${ .word }'}}
    """
    And given the workflow input is:
    """yaml
    {who: ann, word: open}
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow output should have a 'user' property with value:
    """yaml
    ann
    """

  Scenario: a call by the name of an operation
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-4, version: '1.0.0'}
    do:
    - count:
        call: openapi
        with:
          document: {endpoint: 'https://petstore.swagger.io/v2/swagger.json'}
          operationId: findPetsByStatus
          parameters: {status: '${ .wanted }'}
        output: {as: 'length'}
    """
    And given the workflow input is:
    """yaml
    wanted: available
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    2
    """

  Scenario: a call by the name of an operation puts out the whole answer
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-5, version: '1.0.0'}
    do:
    - pet:
        call: openapi
        with:
          document: {endpoint: 'https://petstore.swagger.io/v2/swagger.json'}
          operationId: getPetById
          parameters: {petId: '${ .number }'}
          output: response
    """
    And given the workflow input is:
    """yaml
    number: 1
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow output should have properties 'request', 'request.method', 'request.uri', 'request.headers'
    And the workflow output should have properties 'statusCode', 'headers', 'content.name', 'content.status'

  Scenario: a task is given a part of its input
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-6, version: '1.0.0'}
    do:
    - take: {input: {from: .order.by.id}, set: {buyer: '${ . }'}}
    """
    And given the workflow input is:
    """yaml
    order: {by: {id: u-7}}
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    buyer: u-7
    """

  Scenario: a task puts out a part of its output
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-7, version: '1.0.0'}
    do:
    - pet:
        call: http
        with: {method: get, endpoint: {uri: 'https://petstore.swagger.io/v2/pet/{number}'}}
        output: {as: .name}
    """
    And given the workflow input is:
    """yaml
    number: 2
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    Tom
    """

  Scenario: a task gets what is no object
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-8, version: '1.0.0'}
    do:
    - one:
        call: http
        with: {method: get, endpoint: {uri: 'https://petstore.swagger.io/v2/pet/{number}'}}
        output: {as: .id}
    - two:
        call: http
        with: {method: get, endpoint: {uri: https://petstore.swagger.io/v2/pet/1}}
        output: {as: '{both: [$input, .id]}'}
    """
    And given the workflow input is:
    """yaml
    number: 3
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    both: [3, 1]
    """

  Scenario: a list of tasks in one task
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-9, version: '1.0.0'}
    do:
    - all:
        do:
        - first: {set: {seen: '${ .seen + ["a"] }'}}
        - second: {set: {seen: '${ .seen + ["b"] }'}}
        - third: {set: {seen: '${ .seen + ["c"] }'}}
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    seen: [a, b, c]
    """
    And second should run before third
    And all should run first
    And all should complete

  Scenario: an event is emitted
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-10, version: '1.0.0'}
    do:
    - tell:
        emit:
          event:
            with:
              source: https://kit.example
              type: example.kit.told.v1
              data: {text: '${ "Dear \(.first) \(.last)" }'}
    """
    And given the workflow input is:
    """yaml
    {first: Ann, last: Lee}
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow output should have properties 'id', 'specversion', 'time', 'source', 'type', 'data'
    And the workflow output should have a 'source' property with value:
    """yaml
    https://kit.example
    """
    And the workflow output should have a 'type' property with value:
    """yaml
    example.kit.told.v1
    """
    And the workflow output should have a 'data' property with value:
    """yaml
    text: Dear Ann Lee
    """

  Scenario: tasks follow each other
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-11, version: '1.0.0'}
    do:
    - one: {set: {seen: '${ .seen + ["one"] }'}}
    - two: {set: {seen: '${ .seen + ["two"] }'}}
    - three: {set: {seen: '${ .seen + ["three"] }'}}
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    seen: [one, two, three]
    """
    And one should run first
    And two should run after one
    And three should run after two
    And three should run last

  Scenario: a task says which one follows
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-12, version: '1.0.0'}
    do:
    - one: {set: {seen: '${ .seen + ["one"] }'}, then: two}
    - three: {set: {seen: '${ .seen + ["three"] }'}, then: end}
    - two: {set: {seen: '${ .seen + ["two"] }'}, then: three}
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    seen: [one, two, three]
    """
    And one should run first
    And two should run after one
    And three should run after two

  Scenario: tasks run for each item
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-13, version: '1.0.0'}
    do:
    - each:
        for: {each: letter, in: .letters}
        do:
        - keep: {set: {kept: '${ {letters: (.kept.letters + [$letter]), at: (.kept.at + [$index])} }'}}
    """
    And given the workflow input is:
    """yaml
    letters: [x, y]
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    kept: {letters: [x, y], at: [0, 1]}
    """

  Scenario: branches compete
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-14, version: '1.0.0'}
    do:
    - race:
        fork:
          compete: true
          branches:
          - x: {set: {seen: '${ .seen + ["x"] }'}}
          - y: {set: {seen: '${ .seen + ["y"] }'}}
          - z: {set: {seen: '${ .seen + ["z"] }'}}
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow output should have a 'seen' property containing 1 items

  Scenario: an error is raised
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-15, version: '1.0.0'}
    do:
    - refuse: {raise: {error: {status: 422, type: 'https://kit.example/errors/refused', title: Refused}}}
    """
    When the workflow is executed
    Then the workflow should fault with error:
    """yaml
    {status: 422, type: 'https://kit.example/errors/refused', title: Refused, instance: /do/0/refuse}
    """
    And refuse should fault

  Scenario: the data is set
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.0', namespace: kit, name: kit-16}
    do:
    - make: {set: {form: round, measures: '${ .all.measures }', color: '${ .all.color }'}}
    """
    And given the workflow input is:
    """yaml
    all: {measures: {width: 3}, color: {red: 9}}
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    form: round
    measures: {width: 3}
    color: {red: 9}
    """

  Scenario: a case is true
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-17, version: '1.0.0'}
    do:
    - choose:
        switch:
        - low: {when: .level == "low", then: setLow}
        - high: {when: .level == "high", then: setHigh}
    - setLow: {set: {was: low}, then: end}
    - setHigh: {set: {was: high}, then: end}
    """
    And given the workflow input is:
    """yaml
    level: high
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    was: high
    """
    And choose should run first
    And setHigh should run last

  Scenario: no case is true
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-18, version: '1.0.0'}
    do:
    - choose:
        switch:
        - low: {when: .level == "low", then: setLow}
        - high: {when: .level == "high", then: setHigh}
        then: end
    - setLow: {set: {was: low}}
    - setHigh: {set: {was: high}}
    """
    And given the workflow input is:
    """yaml
    level: other
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    level: other
    """
    And choose should run first
    And choose should run last

  Scenario: no case is true, and there is another one
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-19, version: '1.0.0'}
    do:
    - choose:
        switch:
        - low: {when: .level == "low", then: setLow}
        - high: {when: .level == "high", then: setHigh}
        - other: {then: setOther}
    - setLow: {set: {was: low}}
    - setHigh: {set: {was: high}}
    - setOther: {set: {was: '${ $input.level }'}}
    """
    And given the workflow input is:
    """yaml
    level: other
    """
    When the workflow is executed
    Then the workflow should complete with output:
    """yaml
    was: other
    """
    And choose should run first
    And setOther should run last

  Scenario: an error is caught
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-20, version: '1.0.0'}
    do:
    - attempt:
        try:
        - pet:
            call: http
            with: {method: get, endpoint: {uri: 'https://petstore.swagger.io/v2/pet/getPetByName/{name}'}}
        catch:
          errors: {with: {type: https://serverlessworkflow.io/dsl/errors/types/communication, status: 404}}
          as: wrong
          do: [{tell: {set: {error: '${ $wrong }'}}}]
    """
    And given the workflow input is:
    """yaml
    name: Lost
    """
    When the workflow is executed
    Then the workflow should complete
    And the workflow output should have properties 'error', 'error.type', 'error.status', 'error.title'
    And the workflow output should have a 'error.instance' property with value:
    """yaml
    /do/0/attempt/try/0/pet
    """

  Scenario: an error is not caught
    Given a workflow with definition:
    """yaml
    document: {dsl: '1.0.3', namespace: kit, name: kit-21, version: '1.0.0'}
    do:
    - attempt:
        try:
        - pet:
            call: http
            with: {method: get, endpoint: {uri: 'https://petstore.swagger.io/v2/pet/getPetByName/{name}'}}
        catch:
          errors: {with: {type: https://serverlessworkflow.io/dsl/errors/types/communication, status: 500}}
          as: wrong
          do: [{tell: {set: {error: '${ $wrong }'}}}]
    """
    And given the workflow input is:
    """yaml
    name: Lost
    """
    When the workflow is executed
    Then the workflow should fault
    And pet should fault
    And attempt should fault
