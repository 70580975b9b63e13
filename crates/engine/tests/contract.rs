//! The contract on the engine in memory.

metastore_engine::contract_suite!(Box::new(metastore_engine::Memory::new()));
